import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["public.test.js"],
    // One failure is a failure: nothing is tried twice.
    retry: 0,
    watch: false,
    passWithNoTests: false,
  },
})
