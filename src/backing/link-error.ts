/** LinkError: a backing file that cannot be opened, in a message of one line however long the chain is. */
import { BackingError } from "./backing.ts"

/** Names the opened image, and of the images below it only the one whose backing file fails. */
export class LinkError extends BackingError {
  /** The error of the image whose own backing file cannot be opened; undefined if it is this one. */
  readonly innermost: LinkError | undefined

  /** `path`: the image that has the backing file. `what`: a word for images in messages. */
  constructor(error: BackingError, { path, what }: { readonly path: string; readonly what: "file" | "image" }) {
    const innermost = error instanceof LinkError ? (error.innermost ?? error) : undefined
    const message = innermost === undefined
      ? `cannot open its backing ${what}: ${error.message}`
      : `cannot open its chain of backing ${what}s: ${innermost.message}`
    super(error.code, message, { path, cause: innermost ?? error })
    this.innermost = innermost
  }
}
