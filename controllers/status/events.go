package status

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portico-ingress/portico/router/diag"
)

const (
	// maxName is the apiserver's limit of an object's name.
	maxName = 253
	// component is the Events' source, as kubectl describe shows it.
	component = "portico"
)

// events writes one Event per object generation, reason and field. The Event's
// name follows from these, so that a restarted process or another leader finds
// it there already.
type events struct {
	// const after newEvents
	client   client.Client
	problems Problems
	pace     *rate.Limiter
	holds    func() bool // whether we are elected for sure
	log      logr.Logger

	// written are the names of the Events of current problems that need no
	// further attempt. Owned by run.
	written map[string]struct{}
	// since is when each current problem was first seen. Owned by run.
	since map[string]time.Time
}

func newEvents(c client.Client, opts Options, holds func() bool) *events {
	return &events{
		client:   c,
		problems: opts.Problems,
		pace:     rate.NewLimiter(10, 50),
		holds:    holds,
		log:      opts.Log,
		written:  make(map[string]struct{}),
		since:    make(map[string]time.Time),
	}
}

// retryAfter is how long to wait when the apiserver did not take an Event.
const retryAfter = 5 * time.Second

// gather is how long changes are gathered: going over all problems costs more
// than a publish, and nobody reads Events at once.
const gather = 200 * time.Millisecond

// settle is how long a problem must last: what one source sees, such as a missing
// Secret, another is about to mend.
const settle = 500 * time.Millisecond

// run writes Events until ctx ends.
func (e *events) run(ctx context.Context) {
	for {
		changed := e.problems.Changed()
		var again <-chan time.Time
		if wait := e.write(ctx, changed); wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(gather):
		case <-ctx.Done():
			return
		}
	}
}

// write writes the Events of the current problems. It returns early when the
// problems change, so that nobody is told of what is mended meanwhile, and
// returns how soon what is left is to be tried again; 0: nothing is.
func (e *events) write(ctx context.Context, changed <-chan struct{}) (again time.Duration) {
	names, current := byEventName(e.problems.Problems())
	e.look(current, time.Now())
	for _, name := range names {
		if _, ok := e.written[name]; ok {
			continue
		}
		if left := settle - time.Since(e.since[name]); left > 0 {
			again = max(again, left)
			continue
		}
		if e.pace.Wait(ctx) != nil || !e.holds() {
			return 0
		}
		if e.create(ctx, name, current[name]) {
			e.written[name] = struct{}{}
		} else {
			again = retryAfter
		}
		select {
		case <-changed:
			return 0
		default:
		}
	}
	return again
}

// look forgets what is no problem any more, and notes what is new.
func (e *events) look(current map[string]diag.Problem, now time.Time) {
	for name := range e.since {
		if _, ok := current[name]; !ok {
			delete(e.since, name)
			delete(e.written, name)
		}
	}
	for name := range current {
		if _, ok := e.since[name]; !ok {
			e.since[name] = now
		}
	}
}

// byEventName returns the names of the Events that the problems call for, in
// order, and the first problem of each.
func byEventName(problems []diag.Problem) (names []string, first map[string]diag.Problem) {
	first = make(map[string]diag.Problem, len(problems))
	for _, p := range problems {
		name := eventName(p)
		if _, ok := first[name]; !ok {
			names = append(names, name)
			first[name] = p
		}
	}
	return names, first
}

// create reports whether the Event is there, or never can be.
func (e *events) create(ctx context.Context, name string, p diag.Problem) bool {
	err := e.client.Create(ctx, newEvent(name, p, time.Now()))
	switch {
	case err == nil, apierrors.IsAlreadyExists(err):
		return true
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsNotFound(err), apierrors.IsBadRequest(err):
		// Forbidden is also a namespace on its way out.
		e.log.Info("the apiserver refuses an Event", "problem", p.String(), "error", err.Error())
		return true
	}
	e.log.V(1).Info("writing an Event failed, will try again", "problem", p.String(), "error", err.Error())
	return false
}

func newEvent(name string, p diag.Problem, now time.Time) *corev1.Event {
	at := metav1.NewTime(now)
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: eventNamespace(p), Name: name},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: apiVersions[p.Object.Kind],
			Kind:       p.Object.Kind,
			Namespace:  p.Object.Namespace,
			Name:       p.Object.Name,
			UID:        types.UID(p.Object.UID),
		},
		Type:                corev1.EventTypeWarning,
		Reason:              string(p.Reason),
		Message:             p.Note(),
		Source:              corev1.EventSource{Component: component},
		ReportingController: component,
		FirstTimestamp:      at,
		LastTimestamp:       at,
		Count:               1,
	}
}

var apiVersions = map[string]string{
	"Ingress":       "networking.k8s.io/v1",
	"IngressClass":  "networking.k8s.io/v1",
	"Service":       "v1",
	"Secret":        "v1",
	"EndpointSlice": "discovery.k8s.io/v1",
}

// eventNamespace is where the Event lives: Events of cluster-scoped objects
// are in the namespace default.
func eventNamespace(p diag.Problem) string {
	return cmp.Or(p.Object.Namespace, metav1.NamespaceDefault)
}

// eventName is the same for the same object, generation, reason and field.
func eventName(p diag.Problem) string {
	o := p.Object
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %d %q %q", o.Kind, o.Namespace, o.Name, o.UID, p.Generation, p.Reason, p.Field))
	suffix := "." + hex.EncodeToString(sum[:8])
	prefix := o.Name[:min(len(o.Name), maxName-len(suffix))]
	return strings.TrimRight(prefix, ".-") + suffix
}
