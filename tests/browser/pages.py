"""What a person sees and does in a browser, and what keeps somebody from doing it."""

from __future__ import annotations

from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

WAIT_SECONDS = 15
CONTRAST_MIN = 4.5
"""WCAG 2.2, 1.4.3 (AA)."""

FAULTS = r"""
const faults = [];
const say = (fault, element) => faults.push(fault + ": " + (element ? element.outerHTML.slice(0, 120) : ""));
const seen = element => element.checkVisibility({visibilityProperty: true, opacityProperty: true});
const all = selector => [...document.querySelectorAll(selector)];

if (!document.documentElement.lang) say("the page has no language");
if (!document.title.trim()) say("the page has no title");
if (!document.querySelector("meta[name=viewport]")) say("the page can't be scaled");
if (all("main").length !== 1) say("there must be one main part");
if (all("h1").length !== 1) say("there must be one h1");
let level = 0;
for (const heading of all("h1, h2, h3, h4, h5, h6").filter(seen)) {
  const next = Number(heading.tagName[1]);
  if (next > level + 1) say("a level of headings is left out", heading);
  level = next;
}
for (const field of all("input, select, textarea").filter(field => field.type !== "hidden")) {
  if (![...(field.labels || [])].some(label => label.textContent.trim()) && !field.getAttribute("aria-label"))
    say("a field without a label", field);
}
for (const control of all("button, a[href]").filter(seen))
  if (!control.textContent.trim() && !control.getAttribute("aria-label")) say("nothing says what this does", control);
for (const group of all("fieldset")) if (!group.querySelector("legend")) say("a group without a legend", group);
for (const image of all("img")) if (!image.hasAttribute("alt")) say("a picture without a text", image);
for (const table of all("table")) if (!table.querySelector("th")) say("a table without heads", table);
const ids = all("[id]").map(element => element.id);
for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) say("an id twice: " + id);
for (const link of all("a[href^='#']"))
  if (!document.getElementById(decodeURIComponent(link.hash.slice(1)))) say("a link to nothing", link);
if (document.documentElement.scrollWidth > window.innerWidth + 1) say("the page is wider than the window");

const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgba = color => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
const paper = () => {
  const probe = document.createElement("div");
  probe.style.backgroundColor = "Canvas";
  document.body.append(probe);
  const color = rgba(getComputedStyle(probe).backgroundColor);
  probe.remove();
  return color;
};
const ground = paper();
const behind = element => {
  const layers = [];
  for (let here = element; here; here = here.parentElement) layers.push(rgba(getComputedStyle(here).backgroundColor));
  return layers.reverse().reduce((below, top) => over(top, below), ground);
};
const luminance = ([r, g, b]) => [r, g, b]
  .map(value => value / 255)
  .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
  .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
const told = new Set();
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || !seen(element)) continue;
  const below = behind(element);
  const lights = [luminance(over(rgba(getComputedStyle(element).color), below)), luminance(below)];
  const contrast = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
  const name = element.tagName + "." + element.className;
  if (contrast < arguments[0] && !told.has(name)) {
    told.add(name);
    say("contrast " + contrast.toFixed(2), element);
  }
}
return faults;
"""


class Browser:
    """Drives a browser by what a person would look for: labels, the words on buttons and links."""

    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)

    @property
    def url(self) -> str:
        return self.driver.current_url

    @property
    def heading(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "h1").text

    @property
    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def rows(self) -> list[str]:
        """The tables, row by row."""
        return [row.text for row in self.driver.find_elements(By.TAG_NAME, "tr")]

    def alert(self) -> str:
        return self.driver.find_element(By.CSS_SELECTOR, "[role=alert]").text

    def fill(self, label: str, value: str) -> None:
        field = self._labelled(label)
        field.clear()
        field.send_keys(value)

    def choose(self, label: str) -> None:
        self._labelled(label).click()

    def press(self, button: str) -> None:
        """Press a button, and wait for the page that comes of it."""
        self._leave(lambda: self._find(f"//button[normalize-space()='{button}']").click())

    def follow(self, link: str) -> None:
        self._leave(lambda: self._find(f"//a[normalize-space()='{link}']").click())

    def type(self, *keys: str) -> None:
        """On the keyboard, wherever the focus is."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def tab_to(self, button: str, tabs_max: int = 20) -> None:
        """By the keyboard alone."""
        for _ in range(tabs_max):
            self.type(Keys.TAB)
            if self.driver.switch_to.active_element.text == button:
                return
        raise AssertionError(f"{button!r} can't be reached by the keyboard")

    def enter(self) -> None:
        self._leave(lambda: self.type(Keys.ENTER))

    def wait_for_heading(self, heading: str) -> None:
        WebDriverWait(self.driver, WAIT_SECONDS).until(lambda _: self.heading == heading)

    def faults(self) -> list[str]:
        """What would keep somebody from reading or using the page."""
        return list(self.driver.execute_script(FAULTS, CONTRAST_MIN))

    def darken(self, scheme: str) -> None:
        """As somebody whose system is "dark" or "light" sees it."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def narrow(self, width: int) -> None:
        """As wide as a telephone."""
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def complaints(self) -> list[str]:
        """What the browser wrote on its console since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def loaded(self) -> list[str]:
        """The addresses that the page had loaded besides itself."""
        entries = "return performance.getEntriesByType('resource').map(entry => entry.name)"
        return [name for name in self.driver.execute_script(entries) if not name.startswith("data:")]

    def _find(self, path: str):
        return self.driver.find_element(By.XPATH, path)

    def _labelled(self, label: str):
        element = self._find(f"//label[normalize-space()='{label}']")
        target = element.get_attribute("for")
        return self.driver.find_element(By.ID, target) if target else element.find_element(By.TAG_NAME, "input")

    def _leave(self, act) -> None:
        before = self.driver.find_element(By.TAG_NAME, "html")
        act()
        WebDriverWait(self.driver, WAIT_SECONDS).until(lambda _: _is_gone(before))
        WebDriverWait(self.driver, WAIT_SECONDS).until(
            lambda driver: driver.execute_script("return document.readyState") == "complete"
        )


def _is_gone(element) -> bool:
    try:
        element.is_enabled()
    except WebDriverException:  # stale, or the page is just being replaced
        return True
    return False
