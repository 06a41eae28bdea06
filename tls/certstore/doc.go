// Package certstore selects certificates by SNI: exact host, one-label
// wildcard, default. Its index is immutable behind an atomic pointer; a
// published certificate is never written to.
package certstore
