/** The modules that CVAT's build provides, and what CVAT puts into the window. */

declare module 'cvat-core-wrapper' {
    import type {
        ActionParameters,
        CollectionActionInput,
        CollectionActionOutput,
        Job,
        ObjectState,
    } from '../src/ts/cvat-types';

    /** `init`, `applyFilter`, `run`, CVAT's commit and `destroy` follow each other, whatever fails in between. */
    export abstract class BaseCollectionAction {
        abstract init(instance: Job, parameters: Record<string, unknown>): Promise<void>;
        abstract destroy(): Promise<void>;
        abstract run(input: CollectionActionInput): Promise<CollectionActionOutput>;
        abstract applyFilter(
            input: Pick<CollectionActionInput, 'collection' | 'frameData'>,
        ): CollectionActionInput['collection'];
        abstract isApplicableForObject(objectState: ObjectState): boolean;
        abstract get name(): string;
        abstract get parameters(): ActionParameters | null;
    }
}

declare module 'antd/lib/notification' {
    interface Notice {
        message: string;
        description: string;
        duration?: number; // in seconds; 0: until it is closed
        key?: string;
        btn?: JSX.Element;
    }
    const notification: Record<'success' | 'info' | 'warning' | 'error', (notice: Notice) => void> & {
        destroy(key: string): void;
    };
    export default notification;
}

declare module 'antd/lib/button' {
    const Button: (props: { size: 'small'; onClick: () => void; children?: unknown }) => JSX.Element;
    export default Button;
}

declare module 'react' {
    const React: { createElement(type: unknown, props: object | null, ...children: unknown[]): JSX.Element };
    export default React;
}

declare namespace JSX {
    interface Element {
        props: { onClick: () => void; children?: unknown };
    }
    interface ElementChildrenAttribute {
        children: unknown;
    }
}

interface Window {
    cvatUI?: { registerComponent(builder: import('../src/ts/cvat-types').ComponentBuilder): void };
}
