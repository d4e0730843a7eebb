/** `vioblk rebase`: gives an image another backing file, or none. Exit codes as those of `qemu-img rebase`. */
import { rebaseImage } from "../../../backing/operations/rebase-image.ts"
import { type Arguments, UsageError } from "../arguments.ts"
import { imageOf } from "../image-name.ts"
import { longWork } from "../long-work.ts"
import { complain } from "../output.ts"

export async function rebase(given: Arguments): Promise<number> {
  const { path, format, passphrase } = imageOf(given)
  const unsafe = given.flag("unsafe")
  const name = given.text("backing")
  if (name === undefined && !unsafe) throw new UsageError('rebase needs the new backing file: -b FILE, or -b "" for none')
  if (format === "raw") {
    complain(`${path}: a raw image has no backing file`)
    return 1
  }
  const backingFormat = given.choice("backing-format", ["raw", "qcow2", "luks"])
  const options = {
    unsafe, ...(name !== undefined && name !== "" && { backing: name }), ...(backingFormat !== undefined && { backingFormat }),
  }
  await longWork(
    given,
    `${path} reads as before; run the command again`,
    (watch) => rebaseImage(path, { passphrase, ...options, ...watch }),
  )
  return 0
}
