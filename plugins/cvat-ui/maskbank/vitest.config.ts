import { defineConfig } from 'vitest/config';

const here = (path: string): string => new URL(path, import.meta.url).pathname;

export default defineConfig({
    resolve: {
        alias: {
            'cvat-core-wrapper': here('tests/cvat.ts'),
            'antd/lib/notification': here('tests/notification.ts'),
        },
    },
    test: { include: ['tests/**/*.test.ts'], testTimeout: 120_000, hookTimeout: 120_000 },
});
