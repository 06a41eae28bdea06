// Package conformance has Portico judged by programs that others wrote: h2spec,
// gRPC's interoperability tests and, with the tag judges, slowhttptest and
// testssl.sh. It runs the real program on a folder.
package conformance
