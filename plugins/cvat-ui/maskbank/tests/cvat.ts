/**
 * A stand-in for CVAT in the browser: what `cvat-types.ts` says, and how CVAT runs an annotation action.
 *
 * What a server does is for the one who calls.
 */
import type {
    Attribute,
    Collection,
    CollectionActionInput,
    CollectionActionOutput,
    Core,
    Job,
    Keyframe,
    Model,
    ObjectState,
    Shape,
    Track,
} from '../src/ts/cvat-types';

/** CVAT's class that collection actions extend; the tests and the test page give it as "cvat-core-wrapper". */
export abstract class BaseCollectionAction {
    abstract init(instance: Job, parameters: Record<string, unknown>): Promise<void>;
    abstract destroy(): Promise<void>;
    abstract run(input: CollectionActionInput): Promise<CollectionActionOutput>;
    abstract applyFilter(input: Pick<CollectionActionInput, 'collection' | 'frameData'>): Collection;
}

export interface Commit extends CollectionActionOutput {
    frame: number;
}

/** An error as cvat-core makes it of a response: the status is its code. */
export class ServerError extends Error {
    constructor(
        message: string,
        readonly code: number,
    ) {
        super(message);
    }
}

export const LABELS: Job['labels'] = [
    { id: 1, name: 'koi', attributes: [] },
    {
        id: 2,
        name: 'turtle',
        attributes: [
            { id: 21, mutable: false, defaultValue: 'unnamed' },
            { id: 22, mutable: true, defaultValue: 'unset' },
        ],
    },
];

/** A job with what is annotated in it; `commits` are the steps that its annotator could undo. */
export class StoredJob implements Job {
    readonly id = 7;
    readonly taskId = 5;
    readonly labels = LABELS;
    readonly commits: Commit[] = [];
    readonly deleted = new Set<number>();
    readonly locked = new Set<number | undefined>(); // by clientID
    private collection: Collection = { shapes: [], tags: [], tracks: [] };
    private lastClientID = 0;

    constructor(readonly numbers: readonly number[]) {}

    get startFrame(): number {
        return Math.min(...this.numbers);
    }

    get stopFrame(): number {
        return Math.max(...this.numbers);
    }

    readonly frames = {
        frameNumbers: async (): Promise<number[]> => [...this.numbers],
        get: async (frame: number): Promise<{ deleted: boolean }> => ({ deleted: this.deleted.has(frame) }),
    };

    readonly annotations = {
        get: async (frame: number): Promise<ObjectState[]> => (this.deleted.has(frame) ? [] : this.statesOn(frame)),
        export: async (): Promise<Collection> => structuredClone(this.collection),
    };

    private statesOn(frame: number): ObjectState[] {
        return [
            ...this.collection.shapes
                .filter((shape) => shape.frame === frame)
                .map((shape) => this.stateOf(shape, shape)),
            ...this.collection.tracks.flatMap((track) => {
                const drawn =
                    interpolated(track, frame, this.deleted) ??
                    track.shapes.find((keyframe) => keyframe.frame === frame);
                return drawn ? [this.stateOf(track, drawn)] : [];
            }),
        ];
    }

    private stateOf(object: Shape | Track, drawn: Omit<Keyframe, 'id' | 'frame'>): ObjectState {
        return {
            clientID: object.clientID ?? null,
            shapeType: drawn.type,
            points: [...(drawn.points ?? [])],
            rotation: drawn.rotation,
            occluded: drawn.occluded,
            outside: drawn.outside,
            zOrder: drawn.z_order,
            lock: this.locked.has(object.clientID),
        };
    }

    get shapes(): readonly Shape[] {
        return this.collection.shapes;
    }

    get tracks(): readonly Track[] {
        return this.collection.tracks;
    }

    /** What a person draws. */
    draw(shape: Partial<Shape> & Pick<Shape, 'frame' | 'type' | 'points'>): Shape {
        const drawn = { ...DRAWN, group: 0, label_id: 1, source: 'manual', elements: [], ...shape };
        this.commit({ shapes: [drawn], tags: [], tracks: [] }, { shapes: [], tags: [], tracks: [] });
        return this.collection.shapes.at(-1)!;
    }

    drawTrack(type: string, keyframes: (Partial<Keyframe> & { frame: number })[], track: Partial<Track> = {}): Track {
        const shapes = keyframes.map((keyframe) => ({ ...DRAWN, type, ...keyframe }));
        const frame = Math.min(...shapes.map((keyframe) => keyframe.frame));
        const always = { label_id: 1, group: 0, source: 'manual', elements: [], attributes: [] };
        this.commit(
            { shapes: [], tags: [], tracks: [{ ...always, frame, shapes, ...track }] },
            { shapes: [], tags: [], tracks: [] },
        );
        return this.collection.tracks.at(-1)!;
    }

    commit(created: Collection, deleted: Collection): void {
        const known = new Set([...this.collection.shapes, ...this.collection.tracks].map(({ clientID }) => clientID));
        const gone = new Set([...deleted.shapes, ...deleted.tracks].map(({ clientID }) => clientID));
        if ([...gone].some((id) => !known.has(id))) {
            throw new Error('Objects required to be deleted were not found in the collection');
        }
        if (created.tracks.some(({ shapes }) => shapes[0]?.type === 'mask')) {
            throw new Error('An unexpected type of track "mask"');
        }
        const taken = structuredClone(created);
        [...taken.shapes, ...taken.tracks].forEach((object) => {
            object.clientID = ++this.lastClientID;
        });
        this.collection = {
            shapes: [...this.collection.shapes.filter(({ clientID }) => !gone.has(clientID)), ...taken.shapes],
            tags: [],
            tracks: [...this.collection.tracks.filter(({ clientID }) => !gone.has(clientID)), ...taken.tracks],
        };
    }

    /** What a person does with a shape: CVAT notes that it is no longer the program's work alone. */
    edit(shape: Shape, changes: Partial<Shape>): void {
        const source = shape.source === 'auto' ? 'semi-auto' : shape.source;
        Object.assign(
            this.collection.shapes.find(({ clientID }) => clientID === shape.clientID)!,
            changes,
            { source },
        );
    }

    /** What a person does with G and a click on each: CVAT gives all of them a new number, and leaves their source. */
    group(...objects: readonly (Shape | Track)[]): void {
        const all = [...this.collection.shapes, ...this.collection.tracks];
        const group = Math.max(...all.map((each) => each.group)) + 1;
        const clicked = new Set(objects.map(({ clientID }) => clientID));
        all.filter(({ clientID }) => clicked.has(clientID)).forEach((each) => Object.assign(each, { group }));
    }

    /** A person sets attributes of a shape: CVAT does not count that as a change of its source. */
    describe(shape: Shape, attributes: Attribute[]): void {
        this.collection.shapes.find(({ clientID }) => clientID === shape.clientID)!.attributes = attributes;
    }
}

/** A browser's `localStorage` with room for so many characters. */
export class MemoryStorage implements Storage {
    readonly #texts = new Map<string, string>();

    constructor(readonly room = Infinity) {}

    get length(): number {
        return this.#texts.size;
    }

    key(index: number): string | null {
        return [...this.#texts.keys()][index] ?? null;
    }

    getItem(key: string): string | null {
        return this.#texts.get(key) ?? null;
    }

    setItem(key: string, text: string): void {
        const others = [...this.#texts].filter(([each]) => each !== key).map(([, each]) => each.length);
        if (others.reduce((sum, each) => sum + each, text.length) > this.room) {
            throw new DOMException('The quota has been exceeded.', 'QuotaExceededError');
        }
        this.#texts.set(key, text);
    }

    removeItem(key: string): void {
        this.#texts.delete(key);
    }

    clear(): void {
        this.#texts.clear();
    }
}

const DRAWN = { rotation: 0, occluded: false, outside: false, z_order: 0, attributes: [] };

export type Call = (taskID: number | null, model: Model, args: object) => Promise<unknown>;

export function coreOf(models: Model[], call: Call): Core & { registered: object[] } {
    const registered: object[] = [];
    return {
        registered,
        lambda: { list: async () => ({ models }), call },
        actions: {
            register: async (action) => {
                registered.push(action);
            },
        },
    };
}

/** Runs an action on a frame of a job as CVAT does; what it commits is one step. */
export async function runAction(
    action: BaseCollectionAction,
    job: StoredJob,
    frame: number,
    parameters: Record<string, string | number>,
    onProgress: (message: string, percent: number) => void = () => {},
    cancelled: () => boolean = () => false,
): Promise<void> {
    try {
        await action.init(job, parameters);
        const frameData = { width: 640, height: 360, number: frame };
        const collection = action.applyFilter({ collection: await job.annotations.export(), frameData });
        const { created, deleted } = await action.run({ collection, frameData, onProgress, cancelled });
        job.commit(created, deleted);
        job.commits.push({ created, deleted, frame });
    } finally {
        await action.destroy();
    }
}

/** The same run, but where it fails it throws what its notice says: CVAT itself is told a few words only. */
export async function withSentence(run: Promise<void>, notices: (string | [string, string])[]): Promise<void> {
    await run.catch((error: Error) => {
        if (error.message !== 'AI tracker: nothing was tracked.') {
            throw error;
        }
        throw new Error([notices.pop()].flat().at(-1));
    });
}

/**
 * What a track looks like on a frame; null: nothing, as before its first keyframe and where it is outside.
 *
 * As cvat-core, it interpolates up to the next keyframe, also where that is outside, and leaves out keyframes on deleted
 * frames, but for the frame itself. Of polygons cvat-core finds which corners belong together, and joins those that are
 * close; here it is one by one, and those with another number of corners hold.
 */
export function interpolated(track: Track, frame: number, deleted: ReadonlySet<number> = new Set()): Keyframe | null {
    const ordered = track.shapes
        .filter((keyframe) => keyframe.frame === frame || !deleted.has(keyframe.frame))
        .sort((one, other) => one.frame - other.frame);
    const left = ordered.findLast((keyframe) => keyframe.frame <= frame);
    const right = ordered.find((keyframe) => keyframe.frame > frame);
    if (!left || left.outside) {
        return null;
    }
    if (!right || left.points?.length !== right.points?.length) {
        return left;
    }
    const part = (frame - left.frame) / (right.frame - left.frame);
    const points = left.points?.map((number, index) => number + part * (right.points![index]! - number));
    const turn = ((right.rotation - left.rotation + 540) % 360) - 180; // the shorter way round
    return { ...left, points, rotation: (left.rotation + part * turn + 360) % 360 };
}
