//go:build linux

package main

import (
	"context"
	"errors"
	"time"

	"github.com/go-logr/logr"

	"github.com/portico-ingress/portico/router/l4/nft"
)

// errNotAlone says that another portico-node programs this node.
var errNotAlone = errors.New("another portico-node runs on this node")

// claim makes this process the node's portico-node until release is called.
func claim() (release func() error, err error) {
	release, err = nft.Claim(nft.Options{})
	if errors.Is(err, nft.ErrClaimed) {
		return nil, errNotAlone
	}
	return release, err
}

const (
	// claimAgain is how often a process that waits for the node looks again.
	claimAgain = 200 * time.Millisecond
	// claimWithin is how long it waits: one that takes over is done sooner, and
	// two that are there to stay must not look healthy.
	claimWithin = time.Minute
)

// await claims the node as soon as it is free.
func await(ctx context.Context, log logr.Logger) (release func() error, err error) {
	limit := time.Now().Add(claimWithin)
	for said := false; ; said = true {
		release, err := claim()
		if !errors.Is(err, errNotAlone) || time.Now().After(limit) {
			return release, err
		}
		if !said {
			log.Info("another portico-node runs on this node, this one waits until it ends; there is one for a node, whatever its --service-proxy-name")
		}
		select {
		case <-time.After(claimAgain):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
