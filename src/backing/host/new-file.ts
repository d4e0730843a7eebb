/** Makes a complete file on the host, or none. */
import type { ImageFile } from "../image-file.ts"
import { removeHostFile } from "./host-file.ts"
import { LockedFile } from "./image-lock.ts"

interface NewFileOptions {
  /** Takes no lock. Default false. */
  readonly ignoreLocks?: boolean
}

/** Makes a file at `path`, which must not exist yet. When `write` throws, nothing is left behind. */
export function writeNew(path: string, write: (file: ImageFile) => void, { ignoreLocks = false }: NewFileOptions = {}): void {
  const file = new LockedFile(path, { create: true, ignoreLocks })
  try {
    file.claim()
    write(file)
    file.sync()
    file.close()
  } catch (error) {
    file.close()
    removeHostFile(path)
    throw error
  }
}
