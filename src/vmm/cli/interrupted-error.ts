/** The error of a command that a signal stopped. */

/** A signal stopped the command. The exit code is a shell's for that signal. */
export class InterruptedError extends Error {
  override readonly name = "InterruptedError"
  readonly exitCode: number

  constructor(message: string, exitCode: number) {
    super(message)
    this.exitCode = exitCode
  }
}
