import { readFileSync } from 'node:fs';

/** The cases that the plugin and the Python package are both held to. */
export function sharedCases<Case>(name: string): Case[] {
    return JSON.parse(readFileSync(new URL(`../../../../tests/cases/${name}.json`, import.meta.url), 'utf8')) as Case[];
}
