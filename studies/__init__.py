"""The project's own studies: the papers' tables, and what README and docs show of them.

They run from a checkout, `python -m studies.reproduce --help`, and are no part of the
package that users install.
"""
