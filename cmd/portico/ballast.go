package main

import "runtime/debug"

// ballastSize is how much garbage there may be before it is collected, at least.
const ballastSize = 32 << 20

// ballast counts as heap and takes no memory, since nobody writes it. The collector
// waits for the heap to double: with a heap of a few MB it would run for every few
// hundred TLS handshakes, and look at all globals of the program each time.
var ballast []byte

// loadBallast takes an eighth of the memory limit (GOMEMLIMIT) at most, which counts
// it as used.
func loadBallast() { ballast = make([]byte, min(ballastSize, debug.SetMemoryLimit(-1)/8)) }
