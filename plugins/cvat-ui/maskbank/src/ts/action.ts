import { BaseCollectionAction } from 'cvat-core-wrapper';
import type { Association } from './association';
import { associate } from './association';
import { lostAttributes } from './attributes';
import { withBeside } from './beside';
import type {
    ActionParameters,
    Collection,
    CollectionActionInput,
    CollectionActionOutput,
    Core,
    Job,
    Model,
    ObjectState,
    OpenJob,
} from './cvat-types';
import type { Annotated } from './drawn-over';
import { mergeDrawnOver } from './drawn-over';
import { framesToTrack } from './frames';
import { withoutLocked } from './locked';
import type { Shelf } from './made';
import { Made } from './made';
import type { FollowedObject, FollowedShape } from './objects';
import { OUTLINE_TYPES } from './outlines';
import type { Asked } from './plans';
import { planCorrections, planUpToTarget, sentenceOfLost } from './plans';
import { Cancelled, patiently } from './patience';
import { Pace } from './progress';
import type { NextFrame, Results } from './results';
import { combined, nothing, resultsOf, withAssociated, withShapesOver } from './results';
import type { Outcome, Run } from './runs';
import { byObject, shapesUsed, together } from './runs';
import { sentenceOf } from './sentences';
import type { Settings } from './settings';
import { chooseTracker, maskTrackers, parameters, readSettings } from './settings';
import type { Summary } from './summary';
import { namesOf, sentenceOfSwitchedOff, summaryOf } from './summary';
import type { SwitchedOff } from './switched-off';
import { takenAway } from './switched-off';
import type { Tracked, TrackerRequest } from './tracking';
import { framesBack, outlinedAhead, trackObjects } from './tracking';

export const NAME = 'AI tracker';

/** What the action needs of CVAT's user interface. */
export interface Screen {
    trackers(): readonly Model[]; // that the interface lists
    openJob(): OpenJob | null;
    notify(kind: 'info' | 'warning' | 'error', sentence: string): void;
    showSummary(summary: Summary): void; // with a way to its frame
    holdPage(): () => void; // asks before the page is left, up to a call of what it returns
    closeNotices(): void; // those and the summary of an earlier run
    showFrame(frame: number): Promise<void>; // with its annotations as they are now
}

/** Tracks the objects of the current frame up to another frame. */
export class AITracker extends BaseCollectionAction {
    readonly #core: Core;
    readonly #screen: Screen;
    #job!: Job;
    #settings!: Settings;
    // Once CVAT has taken over the results:
    #frameToShow: number | null = null;
    #summary: Summary | null = null;
    readonly #made: Made;
    #hasToldForgetful = false;

    /** @param shelf see `Made` */
    constructor(core: Core, screen: Screen, shelf: () => Shelf) {
        super();
        this.#core = core;
        this.#screen = screen;
        this.#made = new Made(shelf);
    }

    get name(): string {
        return NAME;
    }

    get parameters(): ActionParameters {
        return parameters(maskTrackers(this.#screen.trackers()), this.#screen.openJob());
    }

    isApplicableForObject(state: ObjectState): boolean {
        return OUTLINE_TYPES.includes(state.shapeType);
    }

    applyFilter({ collection, frameData }: Pick<CollectionActionInput, 'collection' | 'frameData'>): Collection {
        const frame = frameData.number;
        return {
            shapes: collection.shapes.filter((shape) => shape.frame === frame && OUTLINE_TYPES.includes(shape.type)),
            tags: [],
            tracks: collection.tracks.filter(({ shapes }) => OUTLINE_TYPES.includes(shapes[0]?.type ?? '')),
        };
    }

    async init(job: Job, chosen: Record<string, unknown>): Promise<void> {
        this.#job = job;
        this.#settings = readSettings(chosen, job);
        this.#made.open(job.id);
        this.#screen.closeNotices();
    }

    /** @throws Error a few words, which CVAT shows for some seconds; why, a notice says that stays */
    async run(input: CollectionActionInput): Promise<CollectionActionOutput> {
        try {
            return await this.#run(input);
        } catch (error) {
            if (error instanceof Cancelled) {
                return { created: nothing(), deleted: nothing() };
            }
            this.#screen.notify('error', sentenceOf(error));
            throw new Error(`${NAME}: nothing was tracked.`);
        }
    }

    async #run(input: CollectionActionInput): Promise<CollectionActionOutput> {
        const [job, settings] = [this.#job, this.#settings];
        const numbers = await job.frames.frameNumbers();
        const frame = input.frameData.number;
        const waiting = { cancelled: input.cancelled, onWait: () => input.onProgress('Waiting for CVAT…', 0) };
        const isDeleted = (each: number): Promise<boolean> => patiently(() => this.#isDeleted(each), waiting);
        if (await isDeleted(frame)) {
            throw new Error(`Frame ${frame} is deleted: restore it, or run the action on another frame.`);
        }
        const model = chooseTracker((await this.#core.lambda.list()).models, settings.tracker);
        const everything = await job.annotations.export();
        const annotated: Annotated = {
            ...{ collection: input.collection, everything, labels: job.labels },
            states: await job.annotations.get(frame, false, []),
            // A shape that is not "auto" any more was changed by a person, be it that only its label was.
            isMachineMade: (object, drawn) => object.source === 'auto' || ('shapes' in object && this.#made.has(drawn)),
        };
        const { unlocked, locked } = withoutLocked(annotated, frame);
        const { merged, over } = mergeDrawnOver(unlocked, frame);
        const notify: Asked['notify'] = (kind, sentence) => this.#screen.notify(kind, sentence);
        const lost = over.filter(({ shape, track }) => lostAttributes(shape, track.attributes, job.labels).length);
        if (lost.length) {
            notify('warning', sentenceOfLost([frame]));
        }
        const { associated, associations, unclear } = associate(merged, numbers);
        const asked: Asked = { ...associated, unclear, job, settings, frame, numbers, isDeleted, notify };
        const { objects, runs, off } = settings.onlyAround ? await planCorrections(asked) : await planUpToTarget(asked);
        if (!runs.length) {
            this.#tellSwitchedOff(off);
            return this.#remembered(withShapesOver(takenAway(off), over), everything);
        }
        const release = this.#screen.holdPage();
        const outcomes = await this.#track(runs, model, input).finally(release);

        const { tracked, frames } = together(runs, outcomes, objects.length);
        const kept = settings.keepOnCancel || (tracked.end.reason !== 'cancelled' && tracked.end.reason !== 'failed');
        const names = namesOf(objects, job.labels);
        this.#tellEnd(tracked, names, kept, settings.onlyAround ? leftToRun(runs, outcomes, asked.frame) : 'track on');
        if (!kept) {
            return { created: nothing(), deleted: nothing() };
        }
        this.#tellSwitchedOff(off);
        if (tracked.end.reason === 'cancelled') {
            this.#frameToShow = input.frameData.number; // CVAT does not draw anew what was cancelled
        }
        const found = await withBeside(byObject(runs, outcomes), {
            statesOn: (each) => job.annotations.get(each, false, []).catch(() => []), // or what was tracked would be lost
            nextFrame: (each, towards) => this.#nextFrame(numbers, each, towards),
        });
        const tracks = resultsOf(found, job.labels, await this.#nextFrames(numbers, found), (drawn, attribute) =>
            this.#made.isChanged(drawn, attribute),
        );
        const ids = shapesUsed(found, settings.useSeeds);
        const used = associations.filter(({ shape }) => ids.has(shape.clientID));
        this.#tellAssociated(used);
        const results = withAssociated(tracks, used);
        this.#summary = tracked.done.length ? summaryOf(tracked, names, frames, locked) : null;
        if (settings.goToNext) {
            this.#frameToShow ??= this.#summary?.frame ?? null;
        }
        return this.#remembered(withShapesOver(combined(results, takenAway(off)), over), everything);
    }

    /** The same, once the browser knows what of it is a program's. */
    #remembered({ created, deleted, made }: Results, before: Collection): CollectionActionOutput {
        made.forEach((drawn) => this.#made.add(drawn));
        if (!this.#made.save(before) && made.length) {
            this.#tellForgetful();
        }
        return { created, deleted };
    }

    /** Makes runs one after the other, up to the first that does not finish. */
    async #track(runs: readonly Run[], model: Model, input: CollectionActionInput): Promise<Tracked[]> {
        const [job, settings] = [this.#job, this.#settings];
        const call = (request: TrackerRequest): Promise<unknown> =>
            this.#core.lambda.call(job.taskId, model, { ...request, job: job.id });
        const stepsOf = ({ objects, frames }: Run): number =>
            frames.length + (settings.useSeeds ? framesBack(objects, frames).length : 0);
        const steps = runs.reduce((sum, run) => sum + stepsOf(run), 0);
        const pace = new Pace();
        let [percent, count, before] = [0, 0, 0];
        const tell = (what: string, how: string): void => {
            percent = Math.round((100 * count) / steps);
            input.onProgress(`${what} (${count} of ${steps})${how}${pace.left(count, steps)}`, percent);
        };
        const outcomes: Tracked[] = [];
        let hasToldUnreadable = false;
        for (const run of runs) {
            const { objects, from, frames } = run;
            const others = outlinedAhead(from, objects, { from, useSeeds: settings.useSeeds });
            const what = others.length ? 'all that is outlined' : `what is outlined on frame ${from}`;
            input.onProgress(`Starting: the tracker learns ${what}…`, percent);
            try {
                outcomes.push(
                    await trackObjects(call, objects, {
                        ...{ from, frames, useSeeds: settings.useSeeds, stopBelow: settings.stopBelow },
                        isDeleted: (frame) => this.#isDeleted(frame),
                        cancelled: input.cancelled,
                        onFrame: (frame, confidence) => {
                            count = before + frames.indexOf(frame) + 1;
                            tell(`Frame ${frame}`, confidence === null ? '' : `, confidence ${confidence.toFixed(2)}`);
                        },
                        onFrameBack: (frame) => {
                            count += 1;
                            tell(`Back to frame ${frame}`, '');
                        },
                        onWait: () => input.onProgress('Waiting for the tracker…', percent),
                        onUnreadable: () => {
                            if (!hasToldUnreadable) {
                                this.#tellUnreadable(objects);
                            }
                            hasToldUnreadable = true;
                        },
                    }),
                );
            } catch (error) {
                if (!outcomes.length) {
                    throw error;
                }
                const found = objects.map(() => new Map());
                outcomes.push({ done: [], hardBoxes: [], found, end: { reason: 'failed', frame: from, error } });
            }
            if (outcomes.at(-1)!.end.reason !== 'finished') {
                break;
            }
            before += stepsOf(run);
        }
        return outcomes;
    }

    async #isDeleted(frame: number): Promise<boolean> {
        return (await this.#job.frames.get(frame)).deleted;
    }

    async destroy(): Promise<void> {
        const [frame, summary] = [this.#frameToShow, this.#summary];
        this.#frameToShow = this.#summary = null;
        if (summary) {
            this.#screen.showSummary(summary);
        }
        if (frame !== null) {
            await this.#screen.showFrame(frame);
        }
    }

    #tellUnreadable(objects: readonly FollowedObject[]): void {
        if (this.#settings.stopBelow > 0 || objects.some(({ start }) => start.type === 'rectangle')) {
            this.#screen.notify(
                'warning',
                'This CVAT hides how sure the tracker is: it will not stop when it is unsure, and a box stays where its ' +
                    'object was seen last.',
            );
        }
    }

    #tellForgetful(): void {
        if (!this.#hasToldForgetful) {
            this.#screen.notify(
                'warning',
                'This browser keeps nothing, or has no room: when the page is loaded anew, all keyframes of tracks count as ' +
                    'yours, and are not replaced.',
            );
        }
        this.#hasToldForgetful = true;
    }

    /** What covers nothing may still be another object than the one that was lost there. */
    #tellAssociated(associations: readonly Association[]): void {
        const bare = associations.filter(({ covered }) => !covered);
        if (bare.length) {
            const shapes = bare.map(({ shape, group }) => `frame ${shape.frame}: group ${group}`).join(', ');
            this.#screen.notify(
                'info',
                `What you outlined without a group where an object was lost counts as that one (${shapes}). If it is ` +
                    'another one, undo this, and give it a group of its own (G, a click on it, G).',
            );
        }
    }

    #tellSwitchedOff(off: readonly SwitchedOff[]): void {
        if (off.length) {
            this.#screen.notify('info', sentenceOfSwitchedOff(off, this.#job.labels));
        }
    }

    #tellEnd({ done, end }: Tracked, names: readonly string[], kept: boolean, goOn: string): void {
        if (end.reason === 'failed') {
            const what = kept ? `What was tracked up to frame ${done.at(-1)} is kept.` : 'Nothing of this run is kept.';
            const then = this.#settings.onlyAround ? ` Then ${goOn}.` : '';
            this.#screen.notify('error', `Frame ${end.frame}: ${sentenceOf(end.error)} ${what}${then}`);
        }
        if (end.reason === 'unsure') {
            this.#frameToShow = end.frame;
            this.#screen.notify(
                'info',
                `Stopped on frame ${end.frame}: the confidence for ${names[end.object]} is ` +
                    `${end.confidence.toFixed(2)}. Correct it here, then ${goOn}.`,
            );
        }
    }

    /** What comes behind the last frames of objects, and behind each that a shape is on which a track takes along. */
    async #nextFrames(numbers: readonly number[], outcomes: readonly Outcome[]): Promise<NextFrame> {
        const frames = outcomes.flatMap(({ object, from, done }) => [
            Math.max(from, ...done),
            ...(object.kind === 'shape' && object.becomesTrack ? framesOf(object) : []),
        ]);
        const next = new Map<number, number | undefined>();
        for (const frame of new Set(frames)) {
            next.set(frame, await this.#nextFrame(numbers, frame, Infinity));
        }
        return (frame) => next.get(frame);
    }

    /** No frame that is deleted: a keyframe would not count there. */
    async #nextFrame(numbers: readonly number[], from: number, towards: number): Promise<number | undefined> {
        for (const frame of framesToTrack(numbers, from, towards)) {
            // If CVAT cannot be asked just now, what was tracked must not be lost for it.
            if (!(await this.#isDeleted(frame).catch(() => false))) {
                return frame;
            }
        }
        return undefined;
    }
}

function framesOf({ source, byPersons, byMachine }: FollowedShape): number[] {
    return [source.frame, ...byPersons.keys(), ...byMachine.keys()];
}

/** What is left to run after a correction on a frame, in words. */
function leftToRun(runs: readonly Run[], outcomes: readonly Tracked[], frame: number): string {
    const again = `on frame ${frame} again`;
    const { end, done } = outcomes.at(-1)!;
    if (end.reason !== 'unsure') {
        return `run this ${again}`;
    }
    // The outline that is asked for ends what a run on that frame tracks anew, and that is only the object's own.
    const { objects, from } = runs[outcomes.length - 1]!;
    const isPast = from === frame || done.includes(frame);
    const isLast = isPast && objects.length === 1 && outcomes.length === runs.length;
    return `run this on frame ${end.frame}${isLast ? '' : ` and ${again}`}`;
}
