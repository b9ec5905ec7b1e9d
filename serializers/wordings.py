"""In which words tools say that they failed, that they found nothing, and that a page is not shown."""

import re


def _any(*ways: str) -> re.Pattern[str]:
    return re.compile("|".join(ways), re.IGNORECASE)


_DOING = "executing|calling|fetching|loading|processing|searching|connecting"
_WHAT = r"(?:the |a |this )?(?:(?:web)?page|url|https?:|file|document|content|tool|response|results?)"
_FALSY = r"null|false|-?0(?:\.0+)?(?![\d.eE])|\"\"|\[\s*\]|\{\s*\}|-?Infinity|NaN"
BEGINS_AS_ERROR = _any(
    r"\s*\[?(?:(?:MCP|tool|HTTP|API|server) )?error(?:\]|\s*:|\s*\((?:code|-?\d)|\s*\Z)",
    r"\s*(?:(?:MCP|tool|HTTP|API|server) )?error\s+(?:executing|calling|fetching|code|-?\d{3})",
    rf"\s*(?:(?:MCP|tool|HTTP|API) )?error\s+(?:while (?:{_DOING})|from (?:the )?(?:server|upstream|API|tool))",
    r"\s*(?-i:[A-Z]\w{0,60}(?:Error|Exception)):",
    r"\s*Traceback \(",
    r"\s*(?:tool|search|request|call|fetch|query)(?: \w{1,40})? (?:failed|timed out)"
    r"(?:\s*[:.!(]|\s+(?:with|after|due to|because)\b|\s*\Z)",
    r"\s*(?:HTTP|status)(?: code| error|/\d(?:\.\d)?)?[ :]{1,2}[45]\d\d\b",
    r"\s*(?:failed|unable) to (?:fetch|search|load|connect|execute|retrieve)\b",
    rf"\s*(?:failed|unable) to (?:call|read|open|get) {_WHAT}",
    r"\s*(?:rate limit exceeded|too many requests|internal server error|service unavailable)\b",
    r"\s*(?:bad gateway|gateway timeout|connection (?:refused|reset|timed out))\b",
    r"\s*(?:timed out|timeout)(?:\s*[:.!(]|\s+(?:after|while|waiting|error|exceeded)\b|\s*\Z)",
    rf"\s*\{{\s*\"error\"\s*:(?!\s*(?:{_FALSY}))",
    r"\s*\{\s*\"(?:success|ok)\"\s*:\s*false",
    r"\s*\{\s*\"status\"\s*:\s*\"\s*(?:error|fail|failed|failure|timeout|exception)\s*\"",
)

_FOUND = (
    r"(?:results?|match(?:es)?|papers?|articles?|documents?|items?|records?|hits?|entries|data|content|trials?|studies"
    r"|publications?|citations?|pages?|abstracts?|websites?)"
)
_FOR = (
    r"(?:\s(?:(?:for|matching|in|with|by|on|at|to|that match)\b|(?:your|the|this|these) (?:query|search|terms?"
    r"|keywords?|criteria|filters?)\b)[^.!?;]{0,150})?"
)
_BEFORE = r"(?:[^.!?;]{0,80}?\b(?:found|returned|showing|about)\s|sorry,?\s|there (?:are|were)\s|search:?\s)?"
_WAS_FOUND = (
    r"(?:\s(?:were |was |are |is |have been |could be )?"
    r"(?:found|available|returned|matched|match|matching|retrieved|exist)\b)?"
)
NOTHING = _any(
    rf"{_BEFORE}(?:no|0|zero)\s(?:\w+\s){{0,2}}?{_FOUND}{_WAS_FOUND}{_FOR}(?:\s?\([^()]{{0,60}}\))?",
    r"[^.!?;]{0,80}?\b(?:could|can|did|does|do|were|was)\s?(?:not|n['’]t|nt)\s(?:able to )?"
    rf"(?:find|match|return|locate|retrieve)\s(?:anything|any\s(?:\w+\s){{0,2}}?{_FOUND}){_FOR}",
    rf"(?:{_FOUND}|total)\s?[:=]\s?0",
    rf"nothing(?: was)? found{_FOR}",
    r"(?:none|not)(?: was| were)? found",
    r"no (?:output|response|answer)",
    r"none|null|nil|n/a|undefined|empty|loading",
)
"""A whole sentence that says that there is nothing."""
HINT = _any(
    r"(?:try|please|check|use|did you mean|search|suggestions?|consider|you (?:can|may|could)|broaden|refine)\b",
    r"(?:make sure|see|your|spelling|remove|different|fewer|more general)\b|\W",
)
"""How a sentence begins that says how to search better."""

NO_PAGE = _any(
    r"\b(?:complete|solve|enter|pass)\b.{0,40}captcha",
    r"captcha.{0,40}(?:required|verification|challenge|check)",
    r"\bare you (?:a )?(?:human|robot)\b",
    r"\bnot a (?:ro)?bot\b",
    r"\bjust a moment\b",
    r"\battention required\b",
    r"\bray id\b\s?[:#]",
    r"\b(?:verify|confirm|prove)\b.{0,20}\b(?:you are|you['’]re)\s(?:a )?(?:human|not)",
    r"\bunusual (?:traffic|activity)\b.{0,60}\bfrom\b",
    r"\bchecking (?:your browser|if the site)",
    r"\b(?:enable|activate|allow|turn on) (?:javascript|js|cookies)\b",
    r"\bturn (?:javascript|cookies) on\b",
    r"\brequires? (?:javascript|cookies)\b",
    r"\b(?:javascript|cookies?) (?:is|are|must be|needs? to be) (?:disabled|required|enabled|blocked|turned o(?:n|ff))",
    r"\baccess (?:to this (?:page|site|resource) )?(?:has been |is |was )?(?:denied|blocked)\b",
    r"\b(?:error|http|status)(?:\s?code)?\W{0,3}(?:40[0-9]|410|429|50[0-4])\b",
    r"\b403\W{0,4}forbidden|\b404\W{0,4}(?:page )?(?:not found|error)|\b410\W{0,4}gone\b|\b429\W{0,4}too many",
    r"\b500\W{0,4}internal server|\b502\W{0,4}bad gateway|\b503\W{0,4}service|\b504\W{0,4}gateway",
    r"\b(?:page|site|document|article|resource|file)(?: (?:you|that|which|we|at|with|requested)\b[^.!?;]{0,50}?)?"
    r"\s(?:(?:can|could|was|is|were)\s?(?:not|n['’]t)|can['’]t|not)\s(?:be )?"
    r"(?:found|reached|displayed|loaded|opened|exist|available)",
    r"\bcan['’]t be (?:found|reached)\b",
    r"\bpage (?:not found|does(?: not|n['’]t) exist|is missing)",
    r"\A\W{0,8}not found\W{0,8}\Z",
    r"\bplease wait while\b",
    r"\bredirecting (?:you|to)\b|\bredirecting\W{0,8}\Z",
    r"\bloading\W{0,8}\Z",
    r"\b(?:site|server|page|service|system|currently|down)\b.{0,20}\bunder maintenance|\bunder maintenance\W{0,8}\Z",
)
BANNER = _any(
    r"\b(?:we|this (?:web)?site) uses? cookies",
    r"\baccept (?:all )?cookies",
    r"\bcookie (?:settings|preferences|consent|policy)",
    r"\b(?:sign|log) in to (?:continue|view|access)",
)
"""What may also stand above a whole page."""
