//go:build linux && root

package nft_test

import (
	"errors"
	"testing"

	"github.com/portico-ingress/portico/router/l4/nft"
	"github.com/portico-ingress/portico/test/netns"
)

// TestClaim: one at a time programs a network namespace. A claim outlives a flush of
// everything by somebody else, is listed by nft, and ends with its owner.
func TestClaim(t *testing.T) {
	ns := netns.New(t)
	claim := func() (release func() error, err error) {
		ns.Do(func() { release, err = nft.Claim(nft.Options{}) })
		return release, err
	}
	release, err := claim()
	if err != nil {
		t.Fatal(err)
	}
	ruleset(t, ns)
	ns.Run(t, "nft", "flush ruleset")
	if _, err := claim(); !errors.Is(err, nft.ErrClaimed) {
		t.Errorf("a second claim: %v", err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	again, err := claim()
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	if err := again(); err != nil {
		t.Error(err)
	}
	if got := ruleset(t, ns); got != "" {
		t.Errorf("left is\n%s", got)
	}
}
