// Opens a file in a headless Chromium, does what the steps on stdin say, and prints what was seen, both as JSON.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { text } from 'node:stream/consumers';

const PLUGIN = new URL('../plugins/cvat-ui/maskbank/package.json', import.meta.url); // its browser is ours, too
const { chromium } = createRequire(PLUGIN)('playwright-core');
const CHROMIUM = ['chromium', 'chromium-browser', 'google-chrome'].map((name) => `/usr/bin/${name}`).find(existsSync);

const { url, width = 1200, height = 900, scheme = 'light', steps } = JSON.parse(await text(process.stdin));
const browser = await chromium.launch({ executablePath: CHROMIUM, timeout: 60_000 });
const page = await browser.newPage({ viewport: { width, height }, colorScheme: scheme });
const complaints = [];
page.on('console', (message) => {
    const ours = /willReadFrequently/.test(message.text()); // the tests read pixels; the page never does
    if (['error', 'warning'].includes(message.type()) && !ours) complaints.push(message.text());
});
page.on('pageerror', (error) => complaints.push(String(error)));
page.on('request', (request) => /^(file|data):/.test(request.url()) || complaints.push(`asks ${request.url()}`));
page.on('dialog', (dialog) => complaints.push(`dialog ${dialog.message()}`) && dialog.dismiss());
const seen = [];

/** Playwright's own waiting evaluates strings inside the page, which the page's policy forbids. */
async function until(holds, what) {
    for (const end = Date.now() + 20_000; !(await holds()); await new Promise((done) => setTimeout(done, 20))) {
        if (Date.now() > end) throw new Error(`It did not become true: ${what}`);
    }
}

try {
    await page.goto(url);
    for (const [action, ...given] of steps) {
        if (action === 'press') await page.keyboard.press(given[0]);
        else if (action === 'click') await page.locator(given[0]).click();
        else if (action === 'click at') {
            await page.locator(given[0]).scrollIntoViewIfNeeded();
            const { x, y, width, height } = await page.locator(given[0]).boundingBox();
            await page.mouse.click(x + given[1] * width, y + given[2] * height);
        }
        else if (action === 'wait') await until(() => page.evaluate(given[0]), given[0]);
        else if (action === 'see') seen.push(await page.evaluate(given[0]));
        else if (action === 'screenshot') await page.screenshot({ path: given[0], fullPage: given[1] ?? false });
        else throw new Error(`There is no action ${action}.`);
    }
} finally {
    await browser.close();
}
console.log(JSON.stringify({ seen, complaints }));
