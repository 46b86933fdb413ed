import { deflateSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { readState } from '../src/ts/states';

const STATE = { v: 1, bank: 'Q_x-9', object: 2, revision: 17, type: 'mask', visible: false, confidence: 0.93 };
const JSON_TEXT = JSON.stringify({ ...STATE, note: 'größer' });
const base64url = (bytes: Buffer): string => bytes.toString('base64url');
const END = ':1wXyZ0:Ab-cd_EFGH';

describe('a state can be read', () => {
    test.each([
        ['unsigned', STATE],
        ['as JSON', JSON_TEXT],
        ['signed as CVAT does it', JSON_TEXT + END],
        ['signed without a time', `${JSON_TEXT}:Ab-cd_EFGH`],
        ['in base64', base64url(Buffer.from(JSON_TEXT)) + END],
        ['in base64, deflated', `.${base64url(deflateSync(JSON_TEXT))}${END}`],
        ['inside an object', { id: 7, state: JSON_TEXT + END }],
        ['in JSON in JSON', JSON.stringify({ payload: JSON_TEXT }) + END],
    ])('%s', async (_, state) => {
        expect(await readState(state)).toEqual({ confidence: 0.93, visible: false, expectedJ: null });
    });

    test('of an object that is there unless it says otherwise', async () => {
        const found = { confidence: 0.5, visible: true };
        expect(await readState({ confidence: 0.5 })).toEqual({ ...found, expectedJ: null });
        expect(await readState({ confidence: 0.5, expected_j: 0.6 })).toEqual({ ...found, expectedJ: 0.6 });
    });
});

test.each([
    ['nothing', null],
    ['a number', 3],
    ['an id', '0b7a4f2e-11aa'],
    ['a cipher', `gAAAAABm${'x'.repeat(50)}==`],
    ['a broken stream', `.${base64url(Buffer.from('no zlib'))}${END}`],
    ['another tracker', JSON.stringify({ bbox: [1, 2, 3, 4], score: 'high', confidence: 'high' }) + END],
    ['a riddle', { a: { b: { c: { d: { e: { f: STATE } } } } } }],
])('%s cannot be read', async (_, state) => {
    expect(await readState(state)).toBeNull();
});
