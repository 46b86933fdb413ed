import { expect, test } from 'vitest';
import type { Model } from '../src/ts/cvat-types';
import { sentenceOf } from '../src/ts/sentences';
import { chooseTracker, maskTrackers, parameters, readSettings } from '../src/ts/settings';
import { ServerError, StoredJob } from './cvat';
import { MASKBANK } from './server';

const SAM: Model = { id: 12, name: 'SAM 2', kind: 'tracker', supportedShapeTypes: ['mask', 'polygon'] };
const BOXES: Model = { id: 'siammask', name: 'SiamMask', kind: 'tracker', supportedShapeTypes: ['rectangle'] };
const DETECTOR: Model = { id: 'yolo', name: 'YOLO', kind: 'detector', supportedShapeTypes: ['mask'] };
const UNTYPED: Model = { id: 'maskbank', name: 'AI tracker', kind: 'tracker' }; // in a CVAT that does not say
const JOB = new StoredJob([10, 11, 12]);

test('MaskBank is taken, or the only tracker of masks', () => {
    expect(maskTrackers([SAM, BOXES, DETECTOR, MASKBANK])).toEqual([MASKBANK, SAM]);
    expect(chooseTracker([BOXES, UNTYPED], undefined)).toBe(UNTYPED);
    expect(chooseTracker([SAM], undefined)).toBe(SAM);
    expect(chooseTracker([MASKBANK, SAM], 'SAM 2 (12)')).toBe(SAM);
});

test('it is said when there is none', () => {
    expect(() => chooseTracker([BOXES, DETECTOR], undefined)).toThrow('CVAT lists no tracker for masks');
    expect(() => chooseTracker([MASKBANK], 'SAM 2 (12)')).toThrow('CVAT no longer lists the tracker SAM 2 (12)');
});

test('the tracker is asked for only where there are several', () => {
    expect(Object.keys(parameters([MASKBANK], JOB))).toEqual([
        ...[
            'Target frame (10 to 12)',
            'Use other annotated frames as seeds',
            'Only up to the outlines around this frame',
        ],
        ...[
            'Polygons, boxes and ellipses become tracks',
            'Stop when unsure',
            'On cancel',
            'Go to the frame to outline next',
        ],
    ]);
    expect(parameters([MASKBANK, SAM], JOB)['Tracker']).toMatchObject({
        ...{ type: 'select', values: ['AI tracker (maskbank)', 'SAM 2 (12)'], defaultValue: 'AI tracker (maskbank)' },
    });
});

test('what CVAT offers is what it means by default', () => {
    const offered = Object.entries(parameters([], JOB)).map(([name, { values, defaultValue }]) => {
        const context = { instance: JOB };
        const value = typeof defaultValue === 'function' ? defaultValue(context) : defaultValue;
        expect(typeof values === 'function' ? values(context) : values).toContain(value);
        return [name, value];
    });
    const settings = readSettings(Object.fromEntries(offered), JOB);
    expect(settings).toEqual({
        ...{ target: 12, useSeeds: true, onlyAround: false, convert: true, stopBelow: 0, keepOnCancel: true },
        ...{ goToNext: false, tracker: undefined },
    });
    expect(readSettings({}, JOB)).toEqual(settings);
});

test('a target frame of another job means the end of this one', () => {
    expect(readSettings({ 'Target frame': 400 }, JOB).target).toBe(12);
    expect(readSettings({ 'Target frame': 0 }, JOB).target).toBe(12);
    expect(readSettings({ 'Target frame': 10 }, JOB).target).toBe(10);
    expect(readSettings({ 'Target frame': NaN }, JOB).target).toBe(12);
});

test('what CVAT offers again is of jobs with the same frames', () => {
    const kept: Record<string, unknown> = {}; // by CVAT, for the action
    const open = (job: StoredJob, chosen?: number): number => {
        const offered = Object.entries(parameters([], job)).map(([name, { defaultValue }]) => {
            const value =
                kept[name] ?? (typeof defaultValue === 'function' ? defaultValue({ instance: job }) : defaultValue);
            kept[name] = name.startsWith('Target frame') ? (chosen ?? value) : value;
            return [name, kept[name]];
        });
        return readSettings(Object.fromEntries(offered), job).target;
    };
    const next = new StoredJob([11, 12, 13]);
    expect([open(JOB), open(next)]).toEqual([12, 13]);
    expect([open(JOB, 11), open(next), open(JOB)]).toEqual([11, 13, 11]);
});

test('without an open job', () => {
    expect(Object.keys(parameters([], null))[0]).toBe('Target frame');
    expect(readSettings({ 'Target frame (10 to 12)': 11 }, JOB).target).toBe(11);
});

test.each([
    [new ServerError('It has no area.', 400), 'It has no area.'],
    [new ServerError('Invalid or expired tracker state', 400), 'Invalid or expired tracker state.'],
    [
        new ServerError('503 Server Error: Service Unavailable for url: http://nuclio:8070/', 503),
        'The tracker is busy, too slow for so many objects, or out of reach; try again, with fewer objects if it stays so.',
    ],
    [
        new ServerError('500 Server Error: Internal Server Error for url: http://nuclio:8070/', 500),
        'The tracker failed; tell the administrator, who finds the reason in its log.',
    ],
    [
        new ServerError('413 Client Error: Request Entity Too Large for url: http://nuclio:8070/', 413),
        'These are more objects, or larger frames, than the tracker takes at once; track fewer objects together: run the ' +
            'action from the menu of one, or filter them. If one is too many, tell the administrator.',
    ],
    ['a text', 'a text.'],
])('the sentence for %s', (error, sentence) => {
    expect(sentenceOf(error)).toBe(sentence);
});

test.each([400, 401, 408, 410, 413, 429, 500, 503, 504])('the sentence for %d says what to do', (status) => {
    const sentence = sentenceOf(new ServerError(`${status} Error for url: http://nuclio:8070/`, status));
    expect(sentence).toMatch(/tell the administrator|try again|start tracking again|start a new track/);
});
