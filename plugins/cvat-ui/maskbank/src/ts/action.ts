import { BaseCollectionAction } from 'cvat-core-wrapper';
import type {
    ActionParameters,
    Collection,
    CollectionActionInput,
    CollectionActionOutput,
    Core,
    Drawn,
    Job,
    Keyframe,
    Model,
    ObjectState,
    Shape,
    Track,
} from './cvat-types';
import { framesToTrack } from './frames';
import type { Followed, FollowedObject, Surroundings } from './objects';
import { followedObjects } from './objects';
import { OUTLINE_TYPES } from './outlines';
import { Pace } from './progress';
import { nothing, resultsOf } from './results';
import type { Run } from './runs';
import { together } from './runs';
import { sentenceOf } from './sentences';
import type { Settings } from './settings';
import { AROUND, chooseTracker, maskTrackers, parameters, readSettings } from './settings';
import { stretchesAround } from './stretch';
import type { Summary } from './summary';
import { namesOf, ranges, summaryOf } from './summary';
import type { Tracked, TrackerRequest } from './tracking';
import { framesBack, outlinedAhead, trackObjects } from './tracking';

export const NAME = 'AI tracker';

/** What the action needs of CVAT's user interface. */
export interface Screen {
    trackers(): readonly Model[]; // that the interface lists
    notify(kind: 'info' | 'warning' | 'error', sentence: string): void;
    showSummary(summary: Summary): void; // with a way to its frame
    closeNotices(): void; // those and the summary of an earlier run
    showFrame(frame: number): Promise<void>; // with its annotations as they are now
}

/** What is tracked. */
interface Plan {
    objects: FollowedObject[]; // all of them
    runs: Run[];
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
    // All that was drawn since the page was loaded: what a person changes is no longer among it.
    readonly #drawn = new Set<string>();

    constructor(core: Core, screen: Screen) {
        super();
        this.#core = core;
        this.#screen = screen;
    }

    get name(): string {
        return NAME;
    }

    get parameters(): ActionParameters {
        return parameters(maskTrackers(this.#screen.trackers()));
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
        this.#screen.closeNotices();
    }

    async run(input: CollectionActionInput): Promise<CollectionActionOutput> {
        const [job, settings] = [this.#job, this.#settings];
        const numbers = await job.frames.frameNumbers();
        const model = chooseTracker((await this.#core.lambda.list()).models, settings.tracker);
        const { objects, runs } = settings.onlyAround
            ? await this.#corrected(input, numbers)
            : await this.#upToTarget(input, numbers);
        const outcomes = await this.#track(runs, model, input);

        const { tracked, frames } = together(runs, outcomes, objects.length);
        const kept = settings.keepOnCancel || (tracked.end.reason !== 'cancelled' && tracked.end.reason !== 'failed');
        const names = namesOf(objects, job.labels);
        this.#tellEnd(tracked, names, kept);
        if (!kept) {
            return { created: nothing(), deleted: nothing() };
        }
        if (tracked.end.reason === 'cancelled') {
            this.#frameToShow = input.frameData.number; // CVAT does not draw anew what was cancelled
        }
        const [created, deleted] = [nothing(), nothing()];
        for (const [index, outcome] of outcomes.entries()) {
            const { objects, from } = runs[index]!;
            const behind = await this.#frameBehind(numbers, Math.max(from, outcome.done.at(-1) ?? from));
            const results = resultsOf(objects, outcome, job.labels, { from, behind });
            results.made.forEach((drawn) => this.#drawn.add(this.#fingerprint(drawn)));
            add(created, results.created);
            add(deleted, results.deleted);
        }
        this.#summary = tracked.done.length ? summaryOf(tracked, names, frames) : null;
        if (settings.goToNext) {
            this.#frameToShow ??= this.#summary?.frame ?? null;
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
        for (const run of runs) {
            const { objects, from, frames } = run;
            const others = outlinedAhead(from, objects, { from, useSeeds: settings.useSeeds });
            const what = others.length ? 'all that is outlined' : `what is outlined on frame ${from}`;
            input.onProgress(`Starting: the tracker learns ${what}…`, percent);
            try {
                outcomes.push(
                    await trackObjects(call, objects, {
                        ...{ from, frames, useSeeds: settings.useSeeds, stopBelow: settings.stopBelow },
                        isDeleted: async (frame) => (await job.frames.get(frame)).deleted,
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
                        onUnreadable: () => this.#tellUnreadable(objects),
                    }),
                );
            } catch (error) {
                if (!outcomes.length) {
                    throw new Error(sentenceOf(error));
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

    /** The objects of the current frame, up to the target. */
    async #upToTarget({ collection, frameData }: CollectionActionInput, numbers: readonly number[]): Promise<Plan> {
        const from = frameData.number;
        const frames = framesToTrack(numbers, from, this.#settings.target);
        if (!frames.length) {
            throw new Error('There is no frame between this one and the target frame; choose another target frame.');
        }
        const others = this.#settings.useSeeds ? numbers.filter((each) => each !== from && !frames.includes(each)) : [];
        const followed = await this.#followed(collection, { from, frames, others, endMoves: true });
        const objects = this.#checked(followed, frames);
        return { objects, runs: [{ objects, places: [...objects.keys()], from, frames }] };
    }

    /** The objects that a person outlined on the current frame, up to their outlines around it. */
    async #corrected({ collection, frameData }: CollectionActionInput, numbers: readonly number[]): Promise<Plan> {
        const frame = frameData.number;
        const followedFrom = (start: Collection, from: number): Promise<Followed> => {
            const later = framesToTrack(numbers, from, Infinity);
            const frames = [...later, ...framesToTrack(numbers, from, -Infinity)];
            return this.#followed(start, { from, frames, others: [], endMoves: false });
        };
        const byPersons = (await followedFrom(collection, frame)).objects.filter((object) =>
            object.kind === 'shape'
                ? !this.#isMachineMade(object.source, object.source)
                : object.source.shapes.some(
                      (keyframe) => keyframe.frame === frame && !this.#isMachineMade(object.source, keyframe),
                  ),
        );
        if (!byPersons.length) {
            throw new Error(
                `Nothing on this frame is a person's work; correct an object here, or turn "${AROUND}" off.`,
            );
        }
        const { objects, crowded } = await followedFrom(sourcesOf(byPersons), frame);
        if (crowded.length) {
            throw new Error(
                `On frame ${ranges(crowded)} there are several shapes with the same label and group, so it is unclear which ` +
                    `outlines are of the objects here. Give every object a group of its own, or turn "${AROUND}" off.`,
            );
        }
        const outlined = new Set(objects.flatMap(({ annotated }) => [...annotated.keys()]));
        const deleted = new Set<number>();
        for (const each of outlined) {
            if ((await this.#job.frames.get(each)).deleted) {
                deleted.add(each);
            }
        }
        const correction = { frame, target: this.#settings.target, numbers, deleted };
        const runs = new Map<string, Run>();
        for (const [place, object] of objects.entries()) {
            for (const { from, frames } of stretchesAround(object, correction)) {
                const key = `${from} ${frames.at(-1)}`;
                const run = runs.get(key) ?? { objects: [], places: [], from, frames };
                runs.set(key, { ...run, objects: [...run.objects, object], places: [...run.places, place] });
            }
        }
        if (!runs.size) {
            throw new Error(
                `There is nothing to track between this frame and the outlines around it; turn "${AROUND}" off.`,
            );
        }
        const started = [...runs.values()].map(async (run): Promise<Run> => {
            const start = sourcesOf(run.objects, run.from === frame ? undefined : run.from);
            return { ...run, objects: (await followedFrom(start, run.from)).objects };
        });
        return { objects, runs: await Promise.all(started) };
    }

    async #followed(
        collection: Collection,
        around: Pick<Surroundings, 'from' | 'frames' | 'others' | 'endMoves'>,
    ): Promise<Followed> {
        const { convert, useSeeds } = this.#settings;
        return followedObjects(collection, {
            ...{ ...around, convert, useSeeds },
            everything: await this.#job.annotations.export(),
            states: await this.#job.annotations.get(around.from, false, []),
            isMachineMade: (object, drawn) => this.#isMachineMade(object, drawn),
        });
    }

    /** The objects to track through some frames, once it is said what is to be said of them. */
    #checked({ objects, crowded, ungrouped }: Followed, frames: readonly number[]): FollowedObject[] {
        const { convert } = this.#settings;
        if (!objects.length) {
            throw new Error(
                'There is no mask, polygon, ellipse or box on this frame to be tracked; draw one, or go to a frame that ' +
                    'has one.',
            );
        }
        if (objects.every(({ annotated, absent }) => frames.every((f) => annotated.has(f) || absent.has(f)))) {
            throw new Error(
                `These objects are annotated already, on every frame up to frame ${frames.at(-1)}. Choose another target ` +
                    'frame, or delete what is to be tracked anew; of a track, turn "Use other annotated frames as seeds" off.',
            );
        }
        if (crowded.length) {
            this.#screen.notify(
                'warning',
                `On frame ${ranges(crowded)} there are several shapes with the same label and group. It is unclear which ` +
                    'object each of them is, so shapes on other frames were left as they are. Give every object a group of ' +
                    'its own, or delete what is wrong.',
            );
        }
        if (ungrouped.length) {
            this.#screen.notify(
                'warning',
                `What you outlined on frame ${ranges(ungrouped)} has no group, but other objects of its label have, so it is ` +
                    'unclear whether it is one of them. If it is, put it into the group of that object.',
            );
        }
        if (convert && objects.some(({ kind, source }) => kind === 'shape' && source.type === 'mask')) {
            this.#screen.notify('info', 'CVAT has no tracks of masks: masks stay shapes.');
        }
        return objects;
    }

    #isMachineMade({ source }: Shape | Track, drawn: Shape | Keyframe): boolean {
        return source === 'auto' || this.#drawn.has(this.#fingerprint(drawn));
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

    #tellEnd({ done, end }: Tracked, names: readonly string[], kept: boolean): void {
        if (end.reason === 'failed') {
            const what = kept ? `What was tracked up to frame ${done.at(-1)} is kept.` : 'Nothing of this run is kept.';
            this.#screen.notify('error', `Frame ${end.frame}: ${sentenceOf(end.error)} ${what}`);
        }
        if (end.reason === 'unsure') {
            this.#frameToShow = end.frame;
            this.#screen.notify(
                'info',
                `Stopped on frame ${end.frame}: the confidence for ${names[end.object]} is ` +
                    `${end.confidence.toFixed(2)}. Correct it here, then track on.`,
            );
        }
    }

    /** The next frame that is not deleted: on one that is, a keyframe would not count. */
    async #frameBehind(numbers: readonly number[], last: number): Promise<number | undefined> {
        for (const frame of framesToTrack(numbers, last, Infinity)) {
            // If CVAT cannot be asked just now, what was tracked must not be lost for it.
            const { deleted } = await this.#job.frames.get(frame).catch(() => ({ deleted: false }));
            if (!deleted) {
                return frame;
            }
        }
        return undefined;
    }

    #fingerprint({ frame, type, points, outside }: Drawn): string {
        const rounded = points?.map((number) => Math.round(number * 100)); // the server may round what it saves
        return JSON.stringify([this.#job.id, frame, type, !!outside, rounded]);
    }
}

/** The shapes and tracks of objects; of shapes those on another frame, if one is given, which persons drew there. */
function sourcesOf(objects: readonly FollowedObject[], frame?: number): Collection {
    return {
        shapes: objects.flatMap((each) =>
            each.kind === 'shape' ? [frame === undefined ? each.source : each.byPersons.get(frame)!] : [],
        ),
        tags: [],
        tracks: objects.flatMap((each) => (each.kind === 'track' ? [each.source] : [])),
    };
}

function add(collection: Collection, more: Collection): void {
    collection.shapes.push(...more.shapes);
    collection.tracks.push(...more.tracks);
}
