/** `vioblk io`: single requests on an image, in qemu-io's language: a bug report in one line. */
import { readFileSync } from "node:fs"
import { openImage } from "../../../backing/open.ts"
import type { Arguments } from "../arguments.ts"
import { imageOf } from "../image-name.ts"
import { IoSession } from "../io/io-session.ts"

export async function io(given: Arguments): Promise<number> {
  const { path, format, passphrase } = imageOf(given)
  const lines = linesOf(given)
  const image = openImage(path, {
    passphrase, readOnly: given.flag("read-only"), lockReadOnly: true, ignoreLocks: given.flag("force-share"),
    ...(format !== undefined && { format }),
  })
  try {
    const session = new IoSession(image)
    for (const line of lines) {
      if (session.isOver) break
      await session.run(line)
    }
    return session.hasFailed ? 1 : 0
  } finally {
    image.close()
  }
}

/** The lines of `-c`, then of the script; without either, of standard input. */
function linesOf(given: Arguments): string[] {
  const script = given.text("script")
  const commands = given.texts("cmd")
  if (script === undefined && commands.length > 0) return [...commands]
  const source = script === undefined || script === "-" ? 0 : script
  return [...commands, ...readFileSync(source, "utf8").split("\n")]
}
