"""Names of outputs by a template, such as "{name}.{stem}"."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

from rtmtass.errors import UsageError

FIELDS = ("name", "stem")
"""What a template may hold: the recording's name without its suffix, and the stem's."""
_DEFAULT = "{name}.{stem}"
_FORBIDDEN = '<>:"|?*\\'
"""Characters that not every file system takes in a name."""


@dataclass(frozen=True)
class NameTemplate:
    """A template of the outputs' names, without suffix; "/" makes folders.

    Raises:
        UsageError: it has unknown fields, lacks {stem}, or leaves the folder of the outputs.
    """

    text: str = _DEFAULT

    def __post_init__(self) -> None:
        for field in self._fields():
            if field not in FIELDS:
                known = " and ".join(f"{{{name}}}" for name in FIELDS)
                raise UsageError(f"--name {self.text!r}: {{{field}}} is unknown; use {known}")
        if "stem" not in self._fields():
            raise UsageError(
                f"--name {self.text!r} would give all stems one name;"
                " add {stem}, as in --name '{name}.{stem}'"
            )
        self._check(self.fill("name", "stem"))

    @property
    def is_default(self) -> bool:
        """Whether outputs are named NAME.STEM."""
        return self.text == _DEFAULT

    def fill(self, name: str, stem: str) -> str:
        """Return the path of an output, relative to the folder of the outputs.

        Raises:
            UsageError: the recording's own name would lead out of the folder.
        """
        filled = self.text.format(name=name, stem=stem)
        if not self.is_default:
            self._check(filled)
        return filled

    def _fields(self) -> list[str]:
        """Return the names of the fields.

        Raises:
            UsageError: the braces don't match, or a field has a format or a conversion.
        """
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise UsageError(f"--name {self.text!r} isn't a template: {error}") from None
        if any(spec or conversion for _, _, spec, conversion in parts):
            raise UsageError(f"--name {self.text!r}: fields take no format; write {{name}} alone")
        return [field for _, field, _, _ in parts if field is not None]

    def _check(self, filled: str) -> None:
        """Raise unless all of a filled template's parts are plain names."""
        is_absolute = PurePosixPath(filled).is_absolute() or PureWindowsPath(filled).drive
        parts = filled.split("/")
        if is_absolute or any(part.strip() in ("", ".", "..") for part in parts):
            raise UsageError(
                f"--name {self.text!r} would write to {filled!r}, not below the folder of the"
                " outputs; name that with -o, and the files as in --name '{stem}/{name}'"
            )
        fixed = self.text.replace("{name}", "").replace("{stem}", "")
        bad = [c for c in fixed if c in _FORBIDDEN or not c.isprintable()]
        if bad:
            raise UsageError(f"--name {self.text!r}: {bad[0]!r} can't be in a file's name")
