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
import type { Followed, FollowedObject } from './objects';
import { followedObjects } from './objects';
import { OUTLINE_TYPES } from './outlines';
import { Pace } from './progress';
import { nothing, resultsOf } from './results';
import { sentenceOf } from './sentences';
import type { Settings } from './settings';
import { AROUND, chooseTracker, maskTrackers, parameters, readSettings } from './settings';
import { stretchAround } from './stretch';
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

/** What is tracked: from a frame on which all objects are outlined. */
interface Run {
    objects: FollowedObject[];
    from: number;
    frames: number[];
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
        const { objects, from, frames } = settings.onlyAround
            ? await this.#corrected(input, numbers)
            : await this.#upToTarget(input, numbers);

        const call = (request: TrackerRequest): Promise<unknown> =>
            this.#core.lambda.call(job.taskId, model, { ...request, job: job.id });
        let percent = 0;
        const pace = new Pace();
        const steps = frames.length + (settings.useSeeds ? framesBack(objects, frames).length : 0);
        let count = 0;
        const tell = (what: string, how: string): void => {
            percent = Math.round((100 * count) / steps);
            input.onProgress(`${what} (${count} of ${steps})${how}${pace.left(count, steps)}`, percent);
        };
        const others = outlinedAhead(from, objects, { from, useSeeds: settings.useSeeds });
        const what = others.length ? 'all that is outlined' : `what is outlined on frame ${from}`;
        input.onProgress(`Starting: the tracker learns ${what}…`, percent);
        let tracked: Tracked;
        try {
            tracked = await trackObjects(call, objects, {
                ...{ from, frames, useSeeds: settings.useSeeds, stopBelow: settings.stopBelow },
                isDeleted: async (frame) => (await job.frames.get(frame)).deleted,
                cancelled: input.cancelled,
                onFrame: (frame, confidence) => {
                    count = frames.indexOf(frame) + 1;
                    tell(`Frame ${frame}`, confidence === null ? '' : `, confidence ${confidence.toFixed(2)}`);
                },
                onFrameBack: (frame) => {
                    count += 1;
                    tell(`Back to frame ${frame}`, '');
                },
                onWait: () => input.onProgress('Waiting for the tracker…', percent),
                onUnreadable: () => this.#tellUnreadable(objects),
            });
        } catch (error) {
            throw new Error(sentenceOf(error));
        }

        const kept = settings.keepOnCancel || (tracked.end.reason !== 'cancelled' && tracked.end.reason !== 'failed');
        const names = namesOf(objects, job.labels);
        this.#tellEnd(tracked, names, kept);
        if (!kept) {
            return { created: nothing(), deleted: nothing() };
        }
        if (tracked.end.reason === 'cancelled') {
            this.#frameToShow = input.frameData.number; // CVAT does not draw anew what was cancelled
        }
        const behind = await this.#frameBehind(numbers, Math.max(from, tracked.done.at(-1) ?? from));
        const { created, deleted, made } = resultsOf(objects, tracked, job.labels, { from, behind });
        made.forEach((drawn) => this.#drawn.add(this.#fingerprint(drawn)));
        this.#summary = tracked.done.length ? summaryOf(tracked, names, from) : null;
        if (settings.goToNext) {
            this.#frameToShow ??= this.#summary?.frame ?? null;
        }
        return { created, deleted };
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

    /** The objects of the current frame, and the frames up to the target. */
    async #upToTarget({ collection, frameData }: CollectionActionInput, numbers: readonly number[]): Promise<Run> {
        const from = frameData.number;
        const frames = framesToTrack(numbers, from, this.#settings.target);
        if (!frames.length) {
            throw new Error('There is no frame between this one and the target frame; choose another target frame.');
        }
        const others = this.#settings.useSeeds ? numbers.filter((each) => each !== from && !frames.includes(each)) : [];
        const followed = await this.#followed(collection, from, frames, others);
        return { objects: this.#checked(followed, frames), from, frames };
    }

    /** The objects that a person outlined on the current frame, and the frames up to their outlines around it. */
    async #corrected({ collection, frameData }: CollectionActionInput, numbers: readonly number[]): Promise<Run> {
        const current = frameData.number;
        const others = (from: number): number[] => [
            ...framesToTrack(numbers, from, Infinity),
            ...framesToTrack(numbers, from, -Infinity),
        ];
        const { objects } = await this.#followed(collection, current, others(current), []);
        const corrected = objects.filter((object) =>
            object.kind === 'shape'
                ? !this.#isMachineMade(object.source, object.source)
                : object.source.shapes.some(
                      (keyframe) => keyframe.frame === current && !this.#isMachineMade(object.source, keyframe),
                  ),
        );
        if (!corrected.length) {
            throw new Error(
                `Nothing on this frame is a person's work; correct an object here, or turn "${AROUND}" off.`,
            );
        }
        const stretch = stretchAround(current, corrected, numbers);
        if (!stretch) {
            throw new Error(
                'Before this frame, these objects are outlined on different frames; run the action for one of them at a ' +
                    `time, from its menu, or turn "${AROUND}" off.`,
            );
        }
        const { from, frames } = stretch;
        const start = {
            shapes: corrected.flatMap((each) =>
                each.kind === 'shape' ? [from === current ? each.source : each.byPersons.get(from)!] : [],
            ),
            tags: [],
            tracks: corrected.flatMap((each) => (each.kind === 'track' ? [each.source] : [])),
        };
        return { objects: this.#checked(await this.#followed(start, from, others(from), []), frames), from, frames };
    }

    /** See `Surroundings`. */
    async #followed(
        collection: Collection,
        from: number,
        frames: readonly number[],
        others: readonly number[],
    ): Promise<Followed> {
        const { convert, useSeeds } = this.#settings;
        return followedObjects(collection, {
            ...{ from, frames, others, convert, useSeeds },
            everything: await this.#job.annotations.export(),
            states: await this.#job.annotations.get(from, false, []),
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
