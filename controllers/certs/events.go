package certs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/tls/acme"
)

// EventWriter tells the owners of Ingresses of each step of an order.
type EventWriter interface {
	// Tell takes one step and does not block.
	Tell(ingress diag.Ref, s acme.Step)
	// Run writes until ctx ends.
	Run(ctx context.Context)
}

const (
	maxEvents = 256 // that wait to be written
	component = "portico"
)

// Events writes Events by a client. What waits when a term ends is dropped.
type Events struct {
	// const after NewEvents
	client corev1client.EventsGetter
	queue  chan *corev1.Event
	pace   *rate.Limiter
	log    logr.Logger
}

// NewEvents returns an EventWriter that writes at most ten a second.
func NewEvents(client corev1client.EventsGetter, log logr.Logger) *Events {
	return &Events{client: client, queue: make(chan *corev1.Event, maxEvents), pace: rate.NewLimiter(10, 50), log: log}
}

// Tell takes one step. If too many wait it is dropped: the log has it.
func (e *Events) Tell(ingress diag.Ref, s acme.Step) {
	select {
	case e.queue <- newEvent(ingress, s, time.Now()):
	default:
		e.log.V(1).Info("too many Events wait, one is dropped", "ingress", ingress.String(), "event", s.Reason)
	}
}

// Run writes until ctx ends.
func (e *Events) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-e.queue:
			if e.pace.Wait(ctx) != nil {
				return
			}
			_, err := e.client.Events(ev.Namespace).Create(ctx, ev, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
				e.log.V(1).Info("an Event was not written", "ingress", ev.InvolvedObject.Name, "event", ev.Reason, "error", err.Error())
			}
		}
	}
}

func newEvent(ingress diag.Ref, s acme.Step, now time.Time) *corev1.Event {
	sum := sha256.Sum256([]byte(ingress.UID + "\x00" + s.Reason + "\x00" + s.Message + "\x00" + now.String()))
	suffix := "." + hex.EncodeToString(sum[:8])
	at := metav1.NewTime(now)
	kind := corev1.EventTypeNormal
	if s.Failed {
		kind = corev1.EventTypeWarning
	}
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: ingress.Namespace, Name: strings.TrimRight(ingress.Name[:min(len(ingress.Name), 253-len(suffix))], ".-") + suffix},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "networking.k8s.io/v1", Kind: "Ingress", Namespace: ingress.Namespace, Name: ingress.Name, UID: types.UID(ingress.UID),
		},
		Type: kind, Reason: s.Reason, Message: cut(s.Message), Source: corev1.EventSource{Component: component},
		ReportingController: component, FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}
}

// cut shortens a text between runes to what an Event holds: a CA's words may be
// long, and are not ours to trust.
func cut(text string) string {
	return diag.Shorten(strings.ToValidUTF8(text, "�"), diag.MaxNote)
}
