/** What the tracker says of an object in the state that it leaves with CVAT. */
export interface Certainty {
    confidence: number; // 0 to 1: how well the outline fits, or how surely the object is gone
    visible: boolean;
    expectedJ: number | null; // of the mask that was found in a box drawn on the frame; null: no box was
}

const MAX_DEPTH = 4; // of wrappings: more than any CVAT has

/**
 * Reads a state as CVAT hands it to the browser; null where it cannot be read.
 *
 * CVAT signs states, and how has changed: `<JSON>:<time>:<signature>`, or the same with base64url in place of the JSON,
 * deflated if it starts with a dot (Django's `sign_object`). The state may also come unsigned, or inside an object.
 */
export async function readState(state: unknown, depth = 0): Promise<Certainty | null> {
    if (depth > MAX_DEPTH) {
        return null;
    }
    if (typeof state === 'string') {
        for (const parsed of await readings(state)) {
            const found = await readState(parsed, depth + 1);
            if (found) {
                return found;
            }
        }
        return null;
    }
    if (typeof state !== 'object' || state === null) {
        return null;
    }
    if ('confidence' in state && typeof state.confidence === 'number') {
        return {
            confidence: state.confidence,
            visible: !('visible' in state) || state.visible !== false,
            expectedJ: 'expected_j' in state && typeof state.expected_j === 'number' ? state.expected_j : null,
        };
    }
    for (const part of Object.values(state)) {
        const found = typeof part === 'number' ? null : await readState(part, depth + 1);
        if (found) {
            return found;
        }
    }
    return null;
}

/** Everything that a text can mean, with and without what looks like a time and a signature at its end. */
async function readings(text: string): Promise<unknown[]> {
    const unsigned = [text, text.replace(/:[^:]*$/, ''), text.replace(/:[^:]*:[^:]*$/, '')];
    const found: unknown[] = [];
    for (const value of new Set(unsigned)) {
        for (const json of [value, await unpack(value)]) {
            try {
                found.push(JSON.parse(json ?? ''));
            } catch {
                // it means something else
            }
        }
    }
    return found;
}

/** The text behind base64url, inflated if a dot says so; null if it is none. */
async function unpack(value: string): Promise<string | null> {
    const deflated = value.startsWith('.');
    const base64 = (deflated ? value.slice(1) : value).replace(/-/g, '+').replace(/_/g, '/');
    if (!/^[A-Za-z0-9+/]+=*$/.test(base64)) {
        return null;
    }
    try {
        const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
        const stream = new Blob([bytes]).stream();
        return await new Response(deflated ? stream.pipeThrough(new DecompressionStream('deflate')) : stream).text();
    } catch {
        return null;
    }
}
