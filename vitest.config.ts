import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Under the kernel of a virtual machine: `make vm-test`.
    exclude: ['test/vm/**'],
    // Real daemons on a real kernel: slow machines may take their time, and a hang must still end.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    pool: 'forks',
    // Several files at once would fight for two cores and for nothing else: each makes its own namespaces.
    maxWorkers: 2,
  },
})
