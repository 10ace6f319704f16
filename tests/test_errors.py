import pickle

from jaxad import core, errors


def test_message_stays_one_harmless_line() -> None:
    error = errors.InputError("a\nb\x1b[31m\u2028\x00é ü")
    assert str(error) == "a\\nb\\x1b[31m\\u2028\\x00é ü"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(error, ValueError)


def test_core_names_the_same_error() -> None:
    assert core.InputError is errors.InputError


def test_printable_text_stays_and_names_of_files_can_be_encoded() -> None:
    assert errors.printable("é – 漢 a b") == "é – 漢 a b"
    assert errors.printable("latin \udce9\u202e").encode() == rb"latin \udce9\u202e"
    assert errors.printable(3) == "3"
