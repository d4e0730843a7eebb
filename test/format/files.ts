/** Which files have to keep the format. */
import { readdirSync } from "node:fs"
import { posix, resolve } from "node:path"

export const ROOT = resolve(import.meta.dirname, "../..")

/** What does not keep the format yet. The list only gets shorter: a test fails when an entry is not needed any more. */
export const NOT_YET: readonly string[] = [
]

/** Sources below src and test, relative to the repository. */
export function allSources(): string[] {
  return ["src", "test"].flatMap((folder) =>
    readdirSync(resolve(ROOT, folder), { recursive: true, encoding: "utf8" })
      .map((name) => posix.join(folder, name.replaceAll("\\", "/")))
      .filter((name) => /\.(?:ts|js|mjs)$/.test(name)),
  ).sort()
}

export function isExcused(file: string): boolean {
  return NOT_YET.some((entry) => file === entry || file.startsWith(`${entry}/`))
}

export function filesToKeep(): string[] {
  return allSources().filter((file) => !isExcused(file)).map((file) => resolve(ROOT, file))
}
