/** A CVAT server with a tracker behind it, whose objects move one pixel to the right with every frame number. */
import type { Screen } from '../src/ts/action';
import type { Model, OpenJob } from '../src/ts/cvat-types';
import type { Outline } from '../src/ts/outlines';
import { asType } from '../src/ts/outlines';
import type { Call } from './cvat';

export const MASKBANK: Model = {
    id: 'maskbank',
    name: 'AI tracker',
    kind: 'tracker',
    supportedShapeTypes: ['rectangle', 'polygon', 'mask', 'ellipse'],
};

/** A screen that lists this tracker and keeps the sentences of notices. */
export function screenOf(job: OpenJob, notices: string[]): Screen {
    return {
        trackers: () => [MASKBANK],
        openJob: () => job,
        notify: (_, sentence) => void notices.push(sentence),
        showSummary: () => {},
        holdPage: () => () => {},
        closeNotices: () => {},
        showFrame: async () => {},
    };
}

export interface Request {
    type: string;
    frame: number;
    job: number;
    shapes?: (Outline | null)[];
    states?: unknown[];
}

/** A state as the function gives it out. */
export interface State {
    v: 1;
    bank: string;
    object: number;
    revision: number;
    type: string;
    box: number[];
    visible: boolean;
    confidence: number;
    expected_j?: number;
}

interface Bank {
    revision: number;
    types: string[]; // of the first outline of each object, in which it is answered
    seeds: { frame: number; outline: Outline }[]; // the last one of each object
}

export class Server {
    readonly requests: Request[] = [];
    readonly models: string[] = []; // that were asked, one for each request
    dropsSeeds = false;
    isGone: (object: number, frame: number) => boolean = () => false;
    confidence: (object: number, frame: number, seeded: boolean) => number = (_, __, seeded) => (seeded ? 1 : 0.9);
    expectedJ: (object: number, frame: number) => number = () => 0.9; // of the mask in a box
    before: (request: Request) => void = () => {}; // may throw, or change the job
    sign: (state: State) => unknown = signed;
    private readonly banks: Bank[] = [];
    private readonly given = new Map<string, State>(); // by what the browser got

    readonly call: Call = async (taskID, model, args) => {
        const request = structuredClone(args) as Request;
        this.requests.push(request);
        this.models.push(String(model.id));
        if (taskID !== 5 || request.job !== 7) {
            throw new Error('The frame is outside the job range');
        }
        this.before(request);
        const { frame, shapes = [] } = request;
        if (request.type === 'init_tracking') {
            const seeds = (shapes as Outline[]).map((outline) => ({ frame, outline }));
            const types = seeds.map(({ outline }) => outline.type);
            const bank = this.banks.push({ revision: 1, types, seeds }) - 1;
            return { shapes, states: seeds.map((_, object) => this.stateOf(bank, object, frame)) };
        }
        return this.track(frame, request.states ?? [], this.dropsSeeds ? [] : shapes);
    };

    /** The frames of the requests of a type. */
    frames(type: string): number[] {
        return this.requests.filter((request) => request.type === type).map(({ frame }) => frame);
    }

    private track(frame: number, states: unknown[], seeds: (Outline | null)[]): object {
        const known = states.map((state) => {
            const found = this.given.get(JSON.stringify(state));
            if (!found || found.revision !== this.banks[Number(found.bank)]!.revision) {
                throw new Error('This state is not the newest one of its object.');
            }
            return found;
        });
        const shapes = known.map(({ bank, object, type }, index) => {
            const seeded = this.banks[Number(bank)]!.seeds;
            const seed = seeds[index];
            if (seed) {
                seeded[object] = { frame, outline: seed };
                return inType(seed, type);
            }
            const last = seeded[object]!;
            const answered = type === 'rectangle' || !this.isGone(object, frame); // a box is answered always
            return answered ? inType(moved(last.outline, frame - last.frame), type) : null;
        });
        new Set(known.map(({ bank }) => Number(bank))).forEach((bank) => {
            this.banks[bank]!.revision += 1;
        });
        return { shapes, states: known.map(({ bank, object }) => this.stateOf(Number(bank), object, frame)) };
    }

    private stateOf(bank: number, object: number, frame: number): unknown {
        const { revision, types, seeds } = this.banks[bank]!;
        const visible = !this.isGone(object, frame);
        const confidence = this.confidence(object, frame, seeds[object]!.frame === frame);
        const type = types[object]!;
        const state: State = {
            ...{ v: 1, bank: String(bank), object, revision, type, box: [0, 0, 9, 9], visible, confidence },
        };
        const seed = seeds[object]!;
        if (seed.frame === frame && seed.outline.type === 'rectangle') {
            state.expected_j = this.expectedJ(object, frame);
        }
        const given = this.sign(state);
        this.given.set(JSON.stringify(given), state);
        return given;
    }
}

/** As CVAT signs states. */
export function signed(state: State): string {
    return `${JSON.stringify(state)}:1wXyZ0:Sgn-${state.bank}_${state.object}`;
}

/** An outline as one of another type: the function does it by way of a mask, this stand-in by way of a box. */
function inType(outline: Outline, type: string): Outline {
    if (outline.type === type) {
        return outline;
    }
    const isMask = outline.type === 'mask';
    const corners = isMask ? outline.points.slice(-4) : asType(outline, 'rectangle').points;
    const [left, top, right, bottom] = corners as [number, number, number, number];
    const [columns, rows] = [right - left, bottom - top];
    if (type === 'mask') {
        return { type, points: [0, columns * rows, left, top, right - 1, bottom - 1] };
    }
    const far = isMask ? [right + 1, bottom + 1] : [right, bottom];
    return asType({ type: 'rectangle', points: [left, top, ...far] }, type);
}

/** An outline some pixels further to the right. */
export function moved({ type, points }: Outline, pixels: number): Outline {
    const isX = (index: number): boolean =>
        type === 'mask' ? index === points.length - 4 || index === points.length - 2 : index % 2 === 0;
    return { type, points: points.map((number, index) => number + (isX(index) ? pixels : 0)) };
}
