/** The plugin in a headless Chromium, a server that plays CVAT's, and the real function behind it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';
import { startCvatServer } from './cvat-server';
import type { Exchange } from './cvat-server';
import type { Outcome, Scenario } from './page';

const REPOSITORY = resolve('../../..'); // npm runs its scripts in the folder of package.json
const PYTHON = process.env.PYTHON ?? `${REPOSITORY}/.venv/bin/python`;
const CHROMIUM = ['chromium', 'chromium-browser', 'google-chrome'].map((name) => `/usr/bin/${name}`).find(existsSync);

export interface BrowserSetup {
    masks: Record<number, number[]>[]; // by frame and object id, CVAT's points
    exchanges: Exchange[];
    run(scenario: Scenario): Promise<Outcome>;
    reload(): Promise<unknown>; // the page
    pressButtons(job: number): Promise<number[]>; // the frames that are shown then
    stop(): Promise<void>;
}

/**
 * @param size of the function's working image
 * @param frames of the clip for which true masks are wanted
 */
export async function startBrowserSetup(size: number, frames: number): Promise<BrowserSetup> {
    const stops: (() => unknown)[] = [];
    const stop = async (): Promise<void> => {
        for (const each of stops.reverse().splice(0)) {
            await each();
        }
    };
    try {
        const { url, masks } = await startFunction(size, frames, stops);
        const page = '<!doctype html><meta charset="utf-8"><title>CVAT</title><script src="/page.js"></script>';
        const server = await startCvatServer(url, page, await bundle(), `${REPOSITORY}/samples/clip`);
        stops.push(server.stop);
        const browser = await chromium.launch({ executablePath: CHROMIUM, timeout: 60_000 });
        stops.push(() => browser.close());
        const tab = await browser.newPage();
        await tab.goto(server.url);
        const run = (scenario: Scenario): Promise<Outcome> =>
            tab.evaluate(
                (wanted) =>
                    (window as unknown as { runPlugin: (wanted: Scenario) => Promise<Outcome> }).runPlugin(wanted),
                scenario,
            );
        const pressButtons = (job: number): Promise<number[]> =>
            tab.evaluate(
                (open) => (window as unknown as { pressButtons: (job: number) => number[] }).pressButtons(open),
                job,
            );
        return { masks, exchanges: server.exchanges, run, reload: () => tab.reload(), pressButtons, stop };
    } catch (error) {
        await stop();
        throw error;
    }
}

async function startFunction(
    size: number,
    frames: number,
    stops: (() => unknown)[],
): Promise<{ url: string; masks: Record<number, number[]>[] }> {
    const settings = { MASKBANK_SIZE: String(size), MASKBANK_STORE: 'memory://', MASKBANK_DEVICE: 'cpu' };
    const process_ = spawn(PYTHON, ['tests/browser/function.py', String(frames)], {
        env: { OMP_NUM_THREADS: '1', ...process.env, ...settings },
        stdio: ['pipe', 'pipe', 'inherit'],
    });
    stops.push(async () => {
        process_.stdin.end();
        if (process_.exitCode === null) {
            await once(process_, 'exit');
        }
    });
    const lines = createInterface(process_.stdout)[Symbol.asyncIterator]();
    const { value } = await lines.next();
    if (value === undefined) {
        throw new Error(`${PYTHON} could not start the function.`);
    }
    return JSON.parse(value);
}

/** The page with the plugin, as one script. */
async function bundle(): Promise<string> {
    const { outputFiles } = await build({
        entryPoints: ['tests/browser/page.ts'],
        bundle: true,
        write: false,
        alias: {
            'cvat-core-wrapper': resolve('tests/cvat.ts'),
            'antd/lib/notification': resolve('tests/notification.ts'),
            'antd/lib/button': resolve('tests/button.ts'),
            react: resolve('tests/react.ts'),
        },
    });
    return outputFiles[0]!.text;
}
