#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Reads the site that tools/docs.sh builds in a browser, as its readers do.

    tools/docs/browse_site.py FOLDER

Begins at index.html and follows every link inside the site: each page must have a title and a text,
and the browser must have nothing to complain of. Then looks for classes by the search field, and
follows what that finds. Needs Debian's packages chromium-driver and python3-selenium.
"""

import pathlib
import sys
import urllib.parse

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 30
CLASSES = ["LargeObjectCache", "WeakValueMap", "OnExpire"]
# All links at once: to ask for them one by one would take minutes.
LINKS = "return Array.from(document.querySelectorAll('a[href]'), link => link.href)"


def start_browser():
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu",
                     "--allow-file-access-from-files"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)


def complaints(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def read_page(browser, url):
    """Returns what is wrong with a page, and where its links lead."""
    browser.get(url)
    wrong = complaints(browser)
    if not browser.execute_script("return location.href").startswith("file:"):
        wrong.append("the browser shows an error instead")
    if not browser.title:
        wrong.append("no title")
    if not browser.find_element(By.TAG_NAME, "body").text.strip():
        wrong.append("no text")
    links = {urllib.parse.urldefrag(link).url for link in browser.execute_script(LINKS)}
    return wrong, links


def read_all(browser, root):
    """Yields the address of each page that links lead to, and what is wrong with it."""
    waiting = [root + "index.html"]
    seen = set(waiting)
    while waiting:
        url = waiting.pop()
        wrong, links = read_page(browser, url)
        new = sorted(link for link in links - seen if link.startswith(root) and ".html" in link)
        seen.update(new)
        waiting += new
        yield url, wrong


def search_for(browser, root, name):
    """Types a name into the search field; returns what is wrong with what that finds."""
    browser.get(root + "index.html")
    browser.find_element(By.ID, "MSearchField").send_keys(name)
    wait = WebDriverWait(browser, SECONDS)
    wait.until(lambda _: browser.find_element(By.ID, "MSearchResultsWindow").is_displayed())
    # Older versions of Doxygen show the results in a frame.
    for frame in browser.find_elements(By.CSS_SELECTOR, "iframe#MSearchResults"):
        browser.switch_to.frame(frame)
    found = wait.until(lambda _: [
        result for result in browser.find_elements(By.CSS_SELECTOR, ".SRResult a")
        if result.is_displayed() and result.text == name
    ])
    target = found[0].get_attribute("href")
    if target.startswith("javascript:"):  # a name in several places: they follow it
        scopes = browser.find_elements(By.CSS_SELECTOR, ".SRChildren a")
        target = scopes[0].get_attribute("href")
    browser.switch_to.default_content()
    browser.get(target)
    text = browser.find_element(By.TAG_NAME, "body").text
    return [] if name in text else [f"the search leads to {target}, which does not name it"]


def main():
    root = pathlib.Path(sys.argv[1]).resolve().as_uri() + "/"
    messages = []
    count = 0
    browser = start_browser()
    try:
        for url, wrong in read_all(browser, root):
            count += 1
            messages += [f"{url.removeprefix(root)}: {message}" for message in wrong]
        for name in CLASSES:
            messages += [f"{name}: {message}" for message in search_for(browser, root, name)]
    finally:
        browser.quit()
    print(*messages, sep="\n", end="\n" if messages else "")
    print(f"{count} pages read, {len(CLASSES)} classes looked for, {len(messages)} mistakes")
    return 1 if messages or count < 2 else 0


if __name__ == "__main__":
    sys.exit(main())
