package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/go-logr/logr"

	"github.com/portico-ingress/portico/router/admin"
)

// An unready process says why, in its log, after unreadyFirst and then less and
// less often: a failed probe shows nothing but a status code.
const (
	unreadyFirst   = 10 * time.Second
	unreadyLongest = 10 * time.Minute
)

// announceUnready logs what is waited for until all of it is there, or ctx ends.
func announceUnready(ctx context.Context, checks admin.Checks, log logr.Logger) {
	for wait := unreadyFirst; ; wait = min(2*wait, unreadyLongest) {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		var missing []string
		for _, c := range checks() {
			if !c.Ready {
				missing = append(missing, c.Name+": "+c.Detail)
			}
		}
		if len(missing) == 0 {
			return
		}
		log.Error(errors.New(strings.Join(missing, "; ")), "not ready", "advice", "/readyz?verbose of the admin address shows this as it is at the time")
	}
}
