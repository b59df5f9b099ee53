"""What every section of the config tree is, and the kinds of values that many have."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Text = Annotated[str, Field(min_length=1)]
Secret = Annotated[SecretStr, Field(min_length=1)]
"""Empty is refused: a variable that is set to nothing must not become a password of nothing."""
Credits = Annotated[int, Field(strict=True, ge=0, le=1_000_000_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Bytes = Annotated[int, Field(strict=True, gt=0)]
Port = Annotated[int, Field(strict=True, ge=0, le=65_535)]


class Section(BaseModel):
    # Building each section's validator at import, to build all of them again inside Config, would double the start.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, defer_build=True)
