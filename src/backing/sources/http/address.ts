/** Checks the user's URL, credentials and headers for a file on an HTTP server, before anything is requested. */
import { described } from "../../../options.ts"
import { encodeText } from "../../bytes/fields.ts"
import { pageAddress } from "./client.ts"

export function parseUrl(url: string | { readonly href: string }): URL {
  const text: unknown = typeof url === "object" && url !== null ? url.href : url
  if (typeof text !== "string") throw new TypeError(`httpFile: the URL must be a string or a URL, not ${described(url)}`)
  const address = URL.canParse(text, pageAddress()) ? new URL(text, pageAddress()) : undefined
  if (address === undefined) throw new TypeError(`httpFile: ${described(text)} is not a URL; write it as https://host/path`)
  if (address.protocol !== "http:" && address.protocol !== "https:") {
    throw new TypeError(`httpFile: a URL must begin with http: or https:, not ${address.protocol}`)
  }
  address.hash = ""
  return address
}

/** Takes user and password out of the URL: `fetch` refuses URLs with them. [RFC 7617] */
export function takeCredentials(address: URL): Record<string, string> {
  const { username, password } = address
  if (username === "" && password === "") return {}
  address.username = ""
  address.password = ""
  const text = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
  return { authorization: `Basic ${btoa(String.fromCharCode(...encodeText(text)))}` }
}

/** Headers that each request sets itself. */
const OURS = ["range", "accept-encoding"]

/** The headers by lower-case names. Invalid ones fail here, and not in the first request, which would be retried. */
export function checkedHeaders(headers: Readonly<Record<string, string>>): Record<string, string> {
  for (const [name, value] of Object.entries(headers)) {
    if (typeof value !== "string") throw new TypeError(`httpFile: the header ${name} must be a string, not ${described(value)}`)
    const isValid = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name) && /^[\t\x20-\x7e\x80-\xff]*$/.test(value)
    if (!isValid) throw new TypeError(`httpFile: the header ${JSON.stringify(name.slice(0, 40))} is not one that HTTP can carry`)
    if (OURS.includes(name.toLowerCase())) throw new TypeError(`httpFile: the header ${name} is set by httpFile itself; leave it out`)
  }
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]))
}
