"""Weight files of other frameworks, read without those frameworks and turned into jaxad's trees."""
