import type { ActionParameters, Job, Model } from './cvat-types';

export interface Settings {
    target: number; // frame
    useSeeds: boolean;
    onlyAround: boolean; // only what corrections on the current frame can change is tracked
    convert: boolean;
    stopBelow: number; // confidence; 0: never
    keepOnCancel: boolean;
    goToNext: boolean; // to the frame to outline next, at the end
    tracker: string | undefined; // its title
}

const TARGET = 'Target frame'; // and which frames the job has
export const SEEDS = 'Use other annotated frames as seeds';
export const AROUND = 'Only up to the outlines around this frame';
const CONVERT = 'Polygons, boxes and ellipses become tracks';
const UNSURE = 'Stop when unsure';
const CANCEL = 'On cancel';
const NEXT = 'Go to the frame to outline next';
const TRACKER = 'Tracker';
const [KEEP, DISCARD] = ['keep what was done', 'keep nothing'];

/**
 * What CVAT asks the annotator before the action runs; which tracker, only where there are several.
 *
 * CVAT notes each choice, and each default as if it were one, by the name of the action and that of the parameter, and
 * offers it again in the next job. A target frame means something in a job with the same frames only: they are in its name.
 */
export function parameters(
    trackers: readonly Model[],
    job: Pick<Job, 'startFrame' | 'stopFrame'> | null,
): ActionParameters {
    const titles = trackers.map(titleOf);
    const checkbox = { type: 'checkbox', values: ['true', 'false'] } as const;
    return {
        [job ? `${TARGET} (${job.startFrame} to ${job.stopFrame})` : TARGET]: {
            type: 'number',
            values: ({ instance }) => [instance.startFrame, instance.stopFrame, 1].map(String),
            defaultValue: ({ instance }) => String(instance.stopFrame),
        },
        [SEEDS]: { ...checkbox, values: [...checkbox.values], defaultValue: 'true' },
        [AROUND]: { ...checkbox, values: [...checkbox.values], defaultValue: 'false' },
        [CONVERT]: { ...checkbox, values: [...checkbox.values], defaultValue: 'true' },
        [UNSURE]: { type: 'number', values: ['0', '1', '0.05'], defaultValue: '0' },
        [CANCEL]: { type: 'select', values: [KEEP, DISCARD], defaultValue: KEEP },
        [NEXT]: { ...checkbox, values: [...checkbox.values], defaultValue: 'false' },
        ...(titles.length > 1 ? { [TRACKER]: { type: 'select', values: titles, defaultValue: titles[0]! } } : {}),
    };
}

/** The annotator's choices; a target frame that is none of the job's means its end. */
export function readSettings(chosen: Record<string, unknown>, job: Job): Settings {
    const name = Object.keys(chosen).find((each) => each.startsWith(TARGET)) ?? TARGET;
    const target = Number(chosen[name] ?? job.stopFrame);
    const isInJob = target >= job.startFrame && target <= job.stopFrame;
    const tracker = chosen[TRACKER];
    const onlyAround = String(chosen[AROUND]) === 'true';
    return {
        target: isInJob ? target : job.stopFrame,
        useSeeds: onlyAround || String(chosen[SEEDS]) !== 'false',
        onlyAround,
        convert: !onlyAround && String(chosen[CONVERT]) !== 'false', // half of an object cannot be a track
        stopBelow: Number(chosen[UNSURE]) || 0,
        keepOnCancel: chosen[CANCEL] !== DISCARD,
        goToNext: String(chosen[NEXT]) === 'true',
        tracker: typeof tracker === 'string' ? tracker : undefined,
    };
}

/** The trackers that take masks, MaskBank first. */
export function maskTrackers(models: readonly Model[]): Model[] {
    const isMaskBank = (model: Model): boolean => model.id === 'maskbank' || model.name === 'AI tracker';
    const taken = models.filter(
        (model) => model.kind === 'tracker' && (isMaskBank(model) || model.supportedShapeTypes?.includes('mask')),
    );
    return [...taken.filter(isMaskBank), ...taken.filter((model) => !isMaskBank(model))];
}

/** The tracker with a title, or the first one. */
export function chooseTracker(models: readonly Model[], title: string | undefined): Model {
    const trackers = maskTrackers(models);
    const chosen = title === undefined ? trackers[0] : trackers.find((model) => titleOf(model) === title);
    if (!chosen) {
        throw new Error(
            title === undefined
                ? 'CVAT lists no tracker for masks: the function "AI tracker" is not deployed, or not ready; tell the administrator.'
                : `CVAT no longer lists the tracker ${title}; choose another one.`,
        );
    }
    return chosen;
}

function titleOf({ name, id }: Model): string {
    return `${name} (${id})`;
}
