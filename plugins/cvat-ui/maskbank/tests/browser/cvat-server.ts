/** What CVAT's server does for a tracker: it adds the frame, forwards to the function, and signs the states. */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

const SECRET = 'django-secret-key';

/** One call of the function, as the browser sees it. */
export interface Exchange {
    type: string;
    frame: number;
    requestBytes: number;
    replyBytes: number;
}

export interface CvatServer {
    url: string;
    exchanges: Exchange[];
    stop(): void;
}

/**
 * @param page HTML of /
 * @param script of /page.js
 * @param clip folder with frames 00000.jpg ...
 */
export async function startCvatServer(
    functionUrl: string,
    page: string,
    script: string,
    clip: string,
): Promise<CvatServer> {
    const exchanges: Exchange[] = [];

    async function call(body: Buffer): Promise<[number, string]> {
        const args = JSON.parse(body.toString());
        const states = (args.states ?? []).map((state: string) => JSON.parse(unsigned(state)));
        const shapes = args.shapes ?? states.map(() => null);
        const image = (await readFile(`${clip}/frames/${String(args.frame).padStart(5, '0')}.jpg`)).toString('base64');
        const response = await fetch(functionUrl, {
            method: 'POST',
            headers: { 'Content-Type': 'application/json' },
            body: JSON.stringify({ image, shapes, states }),
        });
        let [status, text] = [response.status, await response.text()];
        if (response.ok) {
            const reply = JSON.parse(text);
            text = JSON.stringify({ ...reply, states: reply.states.map(signed) });
        } else {
            text = JSON.stringify(`${status} Client Error: Bad Request for url: ${functionUrl}`);
        }
        exchanges.push({ type: args.type, frame: args.frame, requestBytes: body.length, replyBytes: text.length });
        return [status, text];
    }

    async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
        if (request.method === 'POST' && request.url === '/api/lambda/functions/maskbank') {
            const parts: Buffer[] = [];
            for await (const part of request) {
                parts.push(part as Buffer);
            }
            const [status, text] = await call(Buffer.concat(parts));
            response.writeHead(status, { 'Content-Type': 'application/json' }).end(text);
        } else if (request.url === '/page.js') {
            response.writeHead(200, { 'Content-Type': 'text/javascript' }).end(script);
        } else {
            response.writeHead(request.url === '/' ? 200 : 404, { 'Content-Type': 'text/html' }).end(page);
        }
    }

    const server = createServer((request, response) => {
        answer(request, response).catch((error: Error) => response.writeHead(500).end(JSON.stringify(error.message)));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return {
        url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
        exchanges,
        stop: () => {
            server.closeAllConnections();
            server.close();
        },
    };
}

/** As Django's TimestampSigner does it. */
function signed(state: object): string {
    const value = `${JSON.stringify(state)}:1wXyZ0`;
    return `${value}:${signature(value)}`;
}

function unsigned(text: string): string {
    const [, value, given] = /^(.*):([^:]*)$/s.exec(text) ?? [];
    if (!value || !given || !timingSafeEqual(Buffer.from(signature(value)), Buffer.from(given))) {
        throw new Error('Invalid or expired tracker state');
    }
    return value.replace(/:[^:]*$/, '');
}

function signature(value: string): string {
    return createHmac('sha256', SECRET).update(value).digest('base64url');
}
