/** Programs of the host for calls that Node lacks. */
import { existsSync } from "node:fs"

/** Not $PATH: somebody else's program would run with the image open. */
const DIRECTORIES = ["/usr/bin", "/bin", "/usr/local/bin", "/run/current-system/sw/bin"]

/** The absolute path of a program, or undefined. */
export function findProgram(name: string): string | undefined {
  return DIRECTORIES.map((directory) => `${directory}/${name}`).find((path) => existsSync(path))
}
