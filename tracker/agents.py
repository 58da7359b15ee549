"""What kind of software sent a request, judged by its user agent alone.

Two passes, after the practice of the invalid-traffic standards: a user agent must not name a
robot or a tool, and it must have the shape of software a person looks at. Only what passes both
is a browser. The lists are short families of words, not a catalogue of products: a robot that
wants to be recognised says so, and one that does not is the business of other signals.
"""

import re
from enum import StrEnum
from functools import lru_cache

MAX_USER_AGENT_CHARS = 2048
_CACHE_ENTRIES = 8192


class AgentClass(StrEnum):
    """`browser` includes apps on a person's device; `unknown` is neither good nor bad."""

    BROWSER = "browser"
    BOT = "bot"
    TOOL = "tool"
    EMPTY = "empty"
    UNKNOWN = "unknown"


# "bot" needs care: CUBOT is a maker of phones, and a phone can be called "Spider1S".
_ROBOT_WORDS = (
    r"(?<!cu)bot(?![a-z])|(?<![a-z])bot|robot|crawl|spider(?!\d)|scrap[ei]|slurp|nutch",
    r"archiv|fetch|grabber|harvest|extract|indexer|collector|linkcheck|checklink",
    r"check_http|checker|validat|verif(?:y|ier|ication)|monitor|scan(?:ner|ning)|probe",
    r"inspect|survey|audit|uptime|synthetic|screenshot|pagespeed|speed ?insight",
    r"lighthouse|ptst[/ ]|gtmetrix|pingdom|statuscake|catchpoint|gomezagent|neustar",
    r"dareboost|siteimprove|preview|externalhit|facebookcatalog|whatsapp/",
    r"imageproxy|mailproxy|favicon|feed(?:ly|burner|fetch|parser|reader|bin|er)|netnewswire",
    r"(?<![a-z0-9])rss(?![a-z0-9])|mediapartners|google-[a-z]|-google",
    r"google (?:wireless|keyword|search|pp)",
    r"googleother|googleadwords|googletoolbar|googleauth|apis-google|duplexweb",
    r"cloudflare-|cloudflareobserv|captivenetwork|ddg[-_]android",
    r"duckduckgo/\d\S* cfnetwork",
    r"headless|phantomjs|slimerjs|puppeteer|playwright|selenium|webdriver|cypress|splash ",
    r"chatgpt|gptbot|claude-|perplexity|cohere-|anthropic|bytespider|manus-user|amzn-user",
    r"ips-agent|widget server|rigor|hubspot|datanyze|xenu|sistrix|webcopier|sitesucker",
    # A robot's manners: the address of a page, or of a person, that explains it.
    r"https?://|www\.|[a-z0-9]@[a-z0-9-]+\.[a-z]{2}|[a-z]\.(?:com|net|org|io|ai)(?![a-z.])",
    # Not a name at all but an attempt on whatever shows the log.
    r"<[a-z!?/]|\$\{|&lt;|(?<![a-z])select(?![a-z])|load_file",
)
_TOOL_WORDS = (
    r"curl|wget|libwww-perl|^libwww|lwp[:/-]|httpie|http_?client|http-client|httpasync|httpurl|httpget",
    r"python|urllib|aiohttp|httpx|scrapy|mechanize|pubnub|alamofire|afnetworking|okhttp",
    r"retrofit|volley/|axios|node-|node\.js|undici|superagent|got/|needle/|guzzle|php/",
    r"^php|faraday|ruby|typhoeus|^java[/ ]|jakarta|jersey|apache-|jnlp|go-http|resty|perl",
    r"powershell|winhttp|restsharp|postman|insomnia|paw/|webdav|davclnt|gvfs|cryptoapi",
    r"aws-(?:sdk|internal)|wordpress|cakephp|vert\.x|reqwest|hyper/|libcurl|lua-|erlang",
    r"javafx|ffmpeg|lavf/|transmission/|azureus|download(?:er| master)|^fdm|getright",
)
_ROBOTS = re.compile("|".join(_ROBOT_WORDS))
# Programs that fetch a link to show a picture of its page where somebody has shared it.
_PREVIEWS = re.compile(
    r"facebookexternalhit|facebookcatalog|facebot|meta-externalfetcher|slackbot|slack-imgproxy"
    r"|whatsapp/|twitterbot|telegrambot|discordbot|linkedinbot|skypeuripreview|microsoftpreview"
    r"|bingpreview|pinterestbot|redditbot|embedly|iframely|vkshare|mastodon/"
    r"|snap url preview|kakaotalk-scrap|line-poker|tumblr/|^viber/|cardyb|flipboardproxy"
    r"|quora link preview|google-pagerenderer|googlemessages|yahoo link preview|bitlybot|outbrain"
    r"|(?:url|link)[ -]?preview"
)
_TOOLS = re.compile("|".join(_TOOL_WORDS))
# A server that fetches on behalf of a person and says so: not a device, yet no robot either.
_INTERMEDIARIES = re.compile(r"speedmode; proxy|googleweblight|transcoder")
_PERSONS = re.compile(
    r"applewebkit|gecko/|trident/|msie \d|presto/|opera|khtml|netfront|obigo"
    r"|ucbrowser|uc browser|ucweb|midp|blackberry|nokia|symbian|nintendo|playstation"
    r"|lynx/|links |elinks|w3m/|mosaic|ibrowse|amigavoyager|netsurf"
    r"|android|iphone|ipad|\bios[ /]|windows phone|cfnetwork/|dalvik/",
)


def classify(user_agent: str, *, max_chars: int = MAX_USER_AGENT_CHARS) -> AgentClass:
    """Judge the first `max_chars` characters; white space or a lone `-` counts as empty.

    Robot words win over tool words, and both over the shape of a browser, because
    robots and libraries imitate browsers while browsers never imitate them.
    """
    return _classify(user_agent[:max_chars].strip().lower())


@lru_cache(maxsize=_CACHE_ENTRIES)
def is_preview(user_agent: str) -> bool:
    """Whether the agent says that it fetches a shared link for a preview of it."""
    return _PREVIEWS.search(user_agent.lower()) is not None


@lru_cache(maxsize=_CACHE_ENTRIES)
def _classify(agent: str) -> AgentClass:
    if agent in ("", "-"):
        return AgentClass.EMPTY
    if _ROBOTS.search(agent):
        return AgentClass.BOT
    if _TOOLS.search(agent):
        return AgentClass.TOOL
    if _PERSONS.search(agent) and not _INTERMEDIARIES.search(agent):
        return AgentClass.BROWSER
    return AgentClass.UNKNOWN


class Device(StrEnum):
    """What a click was made on, by its user agent; a recent iPad passes itself off as a desktop."""

    DESKTOP = "desktop"
    MOBILE = "mobile"
    TABLET = "tablet"
    TV = "tv"
    BOT = "bot"
    UNKNOWN = "unknown"


_TVS = re.compile(
    r"smart-?tv|smarttv|appletv|apple tv|google ?tv|hbbtv|netcast|web0s|webos\.tv|roku|bravia"
    r"|tizen.*\btv\b|\btv safari|(?<![a-z])aft[a-z]{1,4}(?![a-z])|crkey|viera|opera tv|ott/"
    r"|nintendo (?:switch|wiiu)|playstation [345]|xbox"
)
_TABLETS = re.compile(r"ipad|tablet|kindle|silk/|playbook|android(?!.*mobi)|sm-t\d")
_MOBILES = re.compile(
    r"mobi|iphone|ipod|android|phone|opera mini|blackberry|symbian|midp|nokia|ucweb|\bios[ /]"
    r"|nintendo|playstation|netfront|obigo"
)
_DEVICES = (
    (_TVS, Device.TV),
    (_TABLETS, Device.TABLET),
    (_MOBILES, Device.MOBILE),
)


def device_of(user_agent: str, *, max_chars: int = MAX_USER_AGENT_CHARS) -> Device:
    """The kind of device. A robot or tool is `bot`; without an agent, or an odd one, `unknown`."""
    return _device_of(user_agent[:max_chars])


@lru_cache(maxsize=_CACHE_ENTRIES)
def _device_of(user_agent: str) -> Device:
    kind = classify(user_agent)
    if kind in (AgentClass.BOT, AgentClass.TOOL):
        return Device.BOT
    if kind is not AgentClass.BROWSER:
        return Device.UNKNOWN
    agent = user_agent.lower()
    return next((device for shape, device in _DEVICES if shape.search(agent)), Device.DESKTOP)
