/** Which files have to keep the format. */
import { readdirSync } from "node:fs"
import { posix, resolve } from "node:path"

export const ROOT = resolve(import.meta.dirname, "../..")

export function isSource(path: string): boolean {
  return /\.(?:ts|js|mjs)$/.test(path)
}

/** Sources below src and test, relative to the repository. */
export function allSources(): string[] {
  return ["src", "test"].flatMap((folder) =>
    readdirSync(resolve(ROOT, folder), { recursive: true, encoding: "utf8" })
      .map((name) => posix.join(folder, name.replaceAll("\\", "/")))
      .filter(isSource),
  ).sort()
}
