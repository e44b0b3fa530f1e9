import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["public.test.js"],
    // One failure is a failure: nothing is tried twice.
    retry: 0,
    // One test compares 100,000 bytes one by one, which takes seconds on a busy machine.
    testTimeout: 20_000,
    watch: false,
    passWithNoTests: false,
  },
})
