#!/bin/sh
# Makes the virtual environment with everything for use, demo and tests; does nothing when it is
# there already for this interpreter and these requirements.
set -eu
venv=$1
python=${JAXAD_PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "jaxad needs Python 3.11 or newer, $python is $("$python" --version 2>&1):" \
    "name another with JAXAD_PYTHON=python3.12 make …" >&2
  exit 2
}
stamp="$("$python" -c 'import sys; print(sys.version)') $(cat pyproject.toml constraints.txt | cksum)"
if [ -f "$venv/.stamp" ] && [ "$(cat "$venv/.stamp")" = "$stamp" ]; then
  exit 0
fi
echo "setting up $venv ($("$python" --version), about a minute) …"
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint constraints.txt --editable '.[demo,test]'
echo "$stamp" > "$venv/.stamp"
echo "$venv is ready: . $venv/bin/activate, then jaxad --help"
