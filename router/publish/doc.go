// Package publish makes one snapshot after the other from what the sources
// deliver, and serves the newest through one atomic pointer.
package publish
