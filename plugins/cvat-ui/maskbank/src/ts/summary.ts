import type { Job } from './cvat-types';
import type { FollowedObject } from './objects';
import { suggest, sureness } from './suggestions';
import type { SwitchedOff } from './switched-off';
import type { Prediction, Tracked } from './tracking';

/** What an annotator is told at the end of a run. */
export interface Summary {
    text: string;
    frame: number | null; // to outline next
}

const UNSURE_BELOW = 0.5; // confidence; `maskbank job` draws the same line
const MOST_OBJECTS = 4; // of which the summary says something, and
const MOST_RUNS = 4; // of frames, for each: it has to be short

/** The names of objects: their labels; where a label has several, with their groups, or numbered without groups. */
export function namesOf(objects: readonly FollowedObject[], labels: Job['labels']): string[] {
    const facts = objects.map((object) => ({
        label: labels.find(({ id }) => id === object.source.label_id)?.name ?? 'an object',
        group: object.kind === 'shape' ? object.group : object.source.group,
    }));
    const names = facts.map(({ label, group }) => {
        const isAlone = facts.filter((other) => other.label === label).length === 1;
        return isAlone || !group ? label : `${label} (group ${group})`;
    });
    return names.map((name, index) => {
        const isAlone = names.indexOf(name) === names.lastIndexOf(name);
        return isAlone ? name : `${name} ${names.slice(0, index + 1).filter((other) => other === name).length}`;
    });
}

/** What was taken away where a person switched tracks off, without a word of the tracker's. */
export function sentenceOfSwitchedOff(tracks: readonly SwitchedOff[], labels: Job['labels']): string {
    const parts = tracks.map(({ source, frame, drawn }) => {
        const gone = drawn.flatMap((each) => (each.outside ? [] : [each.frame]));
        const name = labels.find(({ id }) => id === source.label_id)?.name ?? 'an object';
        return `${name}, switched off on frame ${frame}, is removed from frames ${ranges(gone)}`;
    });
    return `${parts.slice(0, MOST_OBJECTS).join('; ')}${parts.length > MOST_OBJECTS ? ' and others' : ''}.`;
}

/**
 * What was tracked, where objects are gone or the tracker is unsure of them or of a box, and which frame to outline next.
 *
 * @param frames those that were tracked and those on which objects were outlined at the start, in order
 * @param locked how many objects were left because they are locked
 */
export function summaryOf(
    { done, hardBoxes, found, end }: Tracked,
    names: readonly string[],
    frames: readonly number[],
    locked = 0,
): Summary {
    const parts = [`Tracked ${counted(done.length, 'frame')}, up to frame ${done.at(-1)}.`];
    const remarks = found.flatMap((own, index) => {
        const gone = framesWhere(own, ({ outline }) => !outline);
        const unsure = framesWhere(own, ({ confidence }) => confidence !== null && confidence < UNSURE_BELOW);
        const remark = [
            ...(gone.length ? [`gone on ${ranges(gone)}`] : []),
            ...(unsure.length ? [`unsure on ${ranges(unsure)}`] : []),
        ].join('; ');
        return remark ? [`${names[index]}: ${remark}.`] : [];
    });
    parts.push(...remarks.slice(0, MOST_OBJECTS));
    if (remarks.length > MOST_OBJECTS) {
        parts.push(`${counted(remarks.length - MOST_OBJECTS, 'more object')} gone or unsure on some frames.`);
    }
    if (hardBoxes.length) {
        const boxes = hardBoxes.slice(0, MOST_OBJECTS).map(({ frame, object }) => `${names[object]} on ${frame}`);
        const others = hardBoxes.length > MOST_OBJECTS ? ' and others' : '';
        parts.push(
            `Hard to make out in its box: ${boxes.join(', ')}${others}; a polygon drawn over the box says more.`,
        );
    }
    if (locked) {
        parts.push(`Left as it was, because locked: ${counted(locked, 'object')}.`);
    }
    const isHidden = found.every((own) => [...own.values()].every(({ confidence }) => confidence === null));
    if (isHidden || end.reason === 'unsure') {
        return { text: parts.join(' '), frame: null }; // nobody knows which, or it is shown anyway
    }
    const { text, frame } = nextStep(frames, found, names);
    return { text: [...parts, text].join(' '), frame };
}

/**
 * The frame of a run to outline next, as `maskbank job` words it.
 */
function nextStep(
    frames: readonly number[],
    found: readonly ReadonlyMap<number, Prediction>[],
    names: readonly string[],
): Summary {
    const sure = (prediction: Prediction | undefined): number | null =>
        typeof prediction?.confidence === 'number' ? sureness(prediction.confidence, !!prediction.outline) : null;
    const confidence = found.map((own) => frames.map((frame) => sure(own.get(frame))));
    const best = suggest(confidence);
    if (!best) {
        const text = 'No frame is worth another outline: it is not expected to mend much anywhere.';
        return { text, frame: null };
    }
    const frame = frames[best.position]!;
    const objects = best.objects.slice(0, MOST_OBJECTS).map((object) => names[object]);
    const others = best.objects.length > MOST_OBJECTS ? ' and others' : '';
    return { text: `Outline next: frame ${frame}, ${objects.join(', ')}${others}.`, frame };
}

function framesWhere(own: ReadonlyMap<number, Prediction>, holds: (prediction: Prediction) => boolean): number[] {
    return [...own].flatMap(([frame, prediction]) => (holds(prediction) ? [frame] : []));
}

/** Frame numbers in few words: 3-5, 9. */
export function ranges(frames: readonly number[]): string {
    const runs: [number, number][] = [];
    for (const frame of [...new Set(frames)].sort((one, other) => one - other)) {
        const last = runs.at(-1);
        if (last && last[1] === frame - 1) {
            last[1] = frame;
        } else {
            runs.push([frame, frame]);
        }
    }
    const words = runs.slice(0, MOST_RUNS).map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`));
    return `${words.join(', ')}${runs.length > MOST_RUNS ? ' and others' : ''}`;
}

function counted(number: number, what: string): string {
    return `${number} ${what}${number === 1 ? '' : 's'}`;
}
