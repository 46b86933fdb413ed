import type { Job } from './cvat-types';
import type { FollowedObject } from './objects';
import type { Prediction, Tracked } from './tracking';

/** What an annotator is told at the end of a run. */
export interface Summary {
    text: string;
    frame: number | null; // to look at next
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

/** What was tracked, where objects are gone or the tracker is unsure of them, and which frame to look at next. */
export function summaryOf({ done, found, end }: Tracked, names: readonly string[]): Summary {
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
    const lowest = lowestConfidence(found);
    if (!lowest || end.reason === 'unsure') {
        return { text: parts.join(' '), frame: null }; // the frame to look at is shown anyway
    }
    const [name, confidence] = [names[lowest.object], lowest.confidence.toFixed(2)];
    parts.push(`Look at frame ${lowest.frame} next: the confidence for ${name} is lowest there, ${confidence}.`);
    return { text: parts.join(' '), frame: lowest.frame };
}

function lowestConfidence(
    found: readonly ReadonlyMap<number, Prediction>[],
): { object: number; frame: number; confidence: number } | undefined {
    return found
        .flatMap((own, object) =>
            [...own].flatMap(([frame, { confidence }]) => (confidence === null ? [] : [{ object, frame, confidence }])),
        )
        .sort((one, other) => one.confidence - other.confidence || one.frame - other.frame)[0];
}

function framesWhere(own: ReadonlyMap<number, Prediction>, holds: (prediction: Prediction) => boolean): number[] {
    return [...own].flatMap(([frame, prediction]) => (holds(prediction) ? [frame] : []));
}

/** Frame numbers in few words: 3-5, 9. */
export function ranges(frames: readonly number[]): string {
    const runs: [number, number][] = [];
    for (const frame of [...frames].sort((one, other) => one - other)) {
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
