"""Web pages: no request reaches an address that is not public, by whatever road; the honest ones are read."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from backends.errors import ToolFailed
from servers.tool_server.fetch import Fetched, Fetcher, is_public, look_up
from servers.tool_server.webpage import LivePages, as_markdown
from tests.support.pdfs import pdf_of
from tests.support.servers import served

PRIVATE = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.1", "192.0.0.192", "192.0.2.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1", "100::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1", "::127.0.0.1", "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:807f:fffe",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "93.184.216.34", "130.14.29.110", "2606:4700::1111", "2607:f220:41e:4290::110", "64:ff9b::808:808"]
ODD = [
    "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://127.1/",
    "http://0/", "http://127.0.0.1./", "http://localhost/", "http://LOCALHOST./", "http://[::1]/", "http://[::]/",
    "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[0:0:0:0:0:ffff:7f00:0001]/", "http://[::127.0.0.1]/",
    "http://user:password@127.0.0.1/", "http://example.org@127.0.0.1/", "http://127.0.0.1\\@example.org/",
    "http://example.org#@127.0.0.1/", "http://１２７.０.０.１/", "http://①②⑦.0.0.1/", "http://ⓛocalhost/",
    "http://127。0。0。1/", "http://%31%32%37.0.0.1/", "http:///127.0.0.1/", "http://127.0.0.1 /", "//127.0.0.1/", "127.0.0.1",
    "file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:70/_x", "data:text/html,x", "javascript:1", "",
    "http://[fe80::1%25lo]/", "http://[::1%25lo]/", "http://127.0.0.1.nip.example/", "http://999999999999/",
]  # fmt: skip


class Listener:
    """A TCP port on loopback that must never be connected to; counts who did."""

    def __init__(self, family: socket.AddressFamily, host: str) -> None:
        self.socket = socket.socket(family)
        self.socket.bind((host, 0))
        self.socket.listen()
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]

    def connections(self) -> int:
        seen = 0
        while True:
            try:
                self.socket.accept()[0].close()
                seen += 1
            except BlockingIOError:
                return seen


@pytest.fixture
def listeners() -> Iterator[list[Listener]]:
    with ExitStack() as stack:
        kinds = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
        made = [Listener(family, host) for family, host in kinds if family == socket.AF_INET or socket.has_ipv6]
        for listener in made:
            stack.callback(listener.socket.close)
        yield made


def names(**known: str | list[list[str]]) -> tuple[Any, list[str]]:
    """A resolver of a test's own names (others fail), and the names it was asked for; a list answers in turn."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        found = known.get(host.replace(".", "_"))
        if found is None:
            return await look_up(host, port) if host == "localhost" else []
        return [found] if isinstance(found, str) else found[min(asked.count(host), len(found)) - 1]

    return resolve, asked


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_told(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_told(address: str) -> None:
    assert is_public(address)


async def test_no_way_of_writing_an_address_connects_to_this_machine(listeners: list[Listener]) -> None:
    resolve, _ = names(**{"127_0_0_1_nip_example": "127.0.0.1"})
    for listener in listeners:
        for url in ODD:
            with_port = (
                url.replace("/", f":{listener.port}/", 3).replace(f":{listener.port}/", "/", 2)
                if url.count("/") > 2
                else url
            )
            for written in {url, with_port}:
                for fetcher in (Fetcher(resolve=resolve, timeout=0.5), Fetcher(timeout=0.5)):
                    with pytest.raises(ToolFailed):
                        await fetcher.fetch(written)
        for address in PRIVATE:
            host = f"[{address}]" if ":" in address else address
            with pytest.raises(ToolFailed):
                await Fetcher(timeout=2).fetch(f"http://{host}:{listener.port}/")
        assert listener.connections() == 0


async def test_a_name_that_leads_to_a_private_address_is_not_connected_to(listeners: list[Listener]) -> None:
    ways: list[str | list[list[str]]] = ["127.0.0.1", "::1", "169.254.169.254", [["93.184.216.34", "127.0.0.1"]]]
    for way in ways:
        resolve, _ = names(evil_example=way)
        with pytest.raises(ToolFailed, match="not on the public internet"):
            await Fetcher(resolve=resolve).fetch(f"http://evil.example:{listeners[0].port}/")
    assert [listener.connections() for listener in listeners] == [0] * len(listeners)


async def test_a_redirect_leads_to_no_private_address(listeners: list[Listener]) -> None:
    port = listeners[0].port
    targets = [f"http://127.0.0.1:{port}/", f"http://localhost:{port}/", f"http://[::1]:{port}/", f"//127.0.0.1:{port}/",
               f"http://evil.example:{port}/", "file:///etc/passwd", f"http://2130706433:{port}/"]  # fmt: skip

    async def away(request: Request) -> Response:
        return RedirectResponse(targets[int(request.path_params["n"])], 302)

    async def chain(request: Request) -> Response:
        left = int(request.path_params["left"])
        return RedirectResponse(f"/chain/{left - 1}" if left else targets[0], 307)

    resolve, _ = names(good_example="127.0.0.1", evil_example="127.0.0.1")
    with served(Starlette(routes=[Route("/away/{n}", away), Route("/chain/{left}", chain)])) as base:
        good = base.rpartition(":")[2]
        fetcher = Fetcher(frozenset({f"good.example:{good}"}), resolve)
        for n in range(len(targets)):
            with pytest.raises(ToolFailed):
                await fetcher.fetch(f"http://good.example:{good}/away/{n}")
        with pytest.raises(ToolFailed, match="not on the public internet"):
            await fetcher.fetch(f"http://good.example:{good}/chain/3")
        with pytest.raises(ToolFailed, match="more than 5 redirects"):
            await fetcher.fetch(f"http://good.example:{good}/chain/9")
    assert [listener.connections() for listener in listeners] == [0] * len(listeners)


async def test_a_name_is_looked_up_once_a_hop_and_its_second_answer_is_never_used(listeners: list[Listener]) -> None:
    resolve, asked = names(rebind_example=[["203.0.113.7"], ["127.0.0.1"]])
    fetcher = Fetcher(frozenset({"rebind.example"}), resolve, timeout=0.5)
    with pytest.raises(ToolFailed):
        await fetcher.fetch(f"http://rebind.example:{listeners[0].port}/")
    assert asked == ["rebind.example"]
    assert listeners[0].connections() == 0


PAGE = b"""<html><head><title>Trial results</title></head><body><nav>Home | About</nav><article><h1>Trial results</h1>
<p>Dapagliflozin reduced the risk of worsening heart failure or cardiovascular death among patients with heart failure.</p>
<h2>Methods</h2><p>In this phase 3 trial, 4744 patients were randomly assigned to dapagliflozin or to placebo, at 10 mg.</p>
</article><footer>Cookies</footer></body></html>"""


async def pages(path: str, answer: Any) -> tuple[str, str]:
    with served(Starlette(routes=[Route(path, answer)])) as base:
        host = base.removeprefix("http://")
        live = LivePages(Fetcher(frozenset({host}), max_bytes=1_000_000, timeout=0.7))
        return await live.read(f"{base}{path}")


async def test_the_main_content_of_a_page_becomes_markdown() -> None:
    async def page(_: Request) -> Response:
        return Response(PAGE, media_type="text/html")

    url, markdown = await pages("/trial", page)
    assert url.endswith("/trial")
    assert markdown.startswith("# Trial results")
    assert "## Methods" in markdown
    assert "4744 patients" in markdown
    assert "Cookies" not in markdown


@pytest.mark.parametrize("declared", ["text/html; charset=iso-8859-1", "text/html"])
def test_the_charset_is_the_servers_or_the_pages_own(declared: str) -> None:
    text = PAGE.decode().replace("<head>", '<head><meta charset="iso-8859-1">').replace("Dapagliflozin", "Ménière")
    charset = declared.partition("charset=")[2] or None
    assert "Ménière" in as_markdown(Fetched("http://x/", "text/html", charset, text.encode("latin-1")))


SURVIVAL = [(20, 100, "Overall survival was 12.3 months")]


def test_a_pdf_becomes_its_text_and_says_which_pages_were_left_out() -> None:
    text = as_markdown(Fetched("http://x/", "application/pdf", None, pdf_of(SURVIVAL)))
    assert text.strip() == "Overall survival was 12.3 months"
    text = as_markdown(Fetched("http://x/", "application/pdf", None, pdf_of(SURVIVAL, pages=61)))
    assert text.count("Overall survival") == 60
    assert text.endswith("[cut here: 60 of 61 pages were read]")
    with pytest.raises(ToolFailed, match="this PDF cannot be read"):
        as_markdown(Fetched("http://x/", "application/pdf", None, b"%PDF-1.4 nothing"))


async def test_what_cannot_be_read_is_said() -> None:
    async def endless(_: Request) -> Response:
        async def more() -> Any:
            for _ in range(100):
                yield b"x" * 65536

        return StreamingResponse(more(), media_type="text/html")

    async def slow(_: Request) -> Response:
        await asyncio.sleep(1)
        return Response()

    async def picture(_: Request) -> Response:
        return Response(b"\x89PNG", media_type="image/png")

    async def missing(_: Request) -> Response:
        return Response(status_code=404)

    async def empty(_: Request) -> Response:
        return Response(b"<html></html>", media_type="text/html")

    said = {endless: "larger than 1 MB", slow: "no page within 0.7 s", picture: "type image/png", missing: "answered 404",
            empty: "no text"}  # fmt: skip
    for answer, why in said.items():
        with pytest.raises(ToolFailed, match=why):
            await pages("/page", answer)


async def test_a_page_that_takes_too_long_to_read_is_given_up_and_the_next_one_is_read() -> None:
    hostile = Fetched("http://x/", "text/html", "utf-8", b"<html><body><p>" + b"<span>a</span> " * 200_000)
    plain = Fetched("http://x/", "text/plain", "utf-8", b"Just text.")
    pages = LivePages(Fetcher(frozenset()), seconds=4)
    with pytest.raises(ToolFailed, match="could not be read within 4 s"):
        await pages.markdown(hostile)
    assert await pages.markdown(plain) == "Just text."
    both = asyncio.gather(*(pages.markdown(hostile) for _ in range(2)), return_exceptions=True)
    await asyncio.sleep(0.1)
    assert await pages.markdown(plain) == "Just text.", "waiting in line costs it none of its time"
    assert [type(failure) for failure in await both] == [ToolFailed, ToolFailed]


async def test_a_page_beyond_its_bound_says_so() -> None:
    text = "A long text. " * 20_000
    shown = await LivePages(Fetcher()).markdown(Fetched("http://x/", "text/plain", None, text.encode()))
    assert shown == f"{text[:200_000]}\n\n[cut here: 200,000 of 260,000 characters were read]"


@pytest.mark.parametrize("kind", ["application/rss+xml", "application/ld+json", "application/atom+xml"])
def test_what_is_text_by_the_end_of_its_type_is_read(kind: str) -> None:
    assert as_markdown(Fetched("http://x/", kind, None, b'{"name": "x"}')) == '{"name": "x"}'


def test_numbers_are_not_escaped_as_markdown() -> None:
    page = (
        "<html><body><article><p>"
        + "The difference was large in all groups. " * 9
        + "p &lt; 0.001, 3*4</p></article></body></html>"
    )
    assert "p < 0.001" in as_markdown(Fetched("http://x/", "text/html", None, page.encode()))
