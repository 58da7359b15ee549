"""The link was loaded as part of a page: cookie stuffing, seen from the browser itself."""

from fraud.evidence import Evidence, Finding, Group, IvtClass

CODE = "embedded_click"
NAME = "Embedded click"
DESCRIPTION = (
    "`Sec-Fetch-Dest` says that the tracking link was loaded as an image, frame, script or "
    "another part of a page, so nobody clicked it."
)
INNOCENT = (
    "A publisher who previews the landing page in a frame, or a page builder that loads links"
    " to check them: no person clicked there either. A request by script (`empty`) is also "
    "how some pages resolve their links, so it is soft."
)
DEFAULT = "450 points, hard: holds alone. `empty`: 250 points, tags."
SOURCE = (
    'impact.com event reason "image click", risk critical; Fetch Metadata Request Headers (W3C).'
)

# A closed list: a value that a later standard invents must not accuse anyone.
_MEDIA = frozenset(("audio", "font", "image", "manifest", "style", "track", "video", "xslt"))
_FRAMES = frozenset(("embed", "fencedframe", "frame", "iframe", "object"))
_SCRIPTS = frozenset(("script", "serviceworker", "sharedworker", "worker"))
_PARTS = _MEDIA | _FRAMES | _SCRIPTS
_BY_SCRIPT = "empty"


def find(evidence: Evidence) -> Finding | None:
    """Fire as DEFAULT says; None when the facts are missing or ordinary."""
    dest = (evidence.sec_fetch_dest or "").strip().lower()
    if dest not in _PARTS and dest != _BY_SCRIPT:
        return None
    hard = dest in _PARTS
    return Finding(
        code=CODE,
        group=Group.CLIENT,
        points=450 if hard else 250,
        hard=hard,
        tags=True,
        billable=not hard,
        ivt_class=IvtClass.SOPHISTICATED,
        value=dest,
        baseline="document",
        text="The link was loaded as part of a page instead of being followed.",
    )
