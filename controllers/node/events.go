package node

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/l4"
)

// ReasonAddressTaken is the reason of the Event of a Service that asks for an
// address and port that another has.
const ReasonAddressTaken diag.Reason = "AddressTaken"

// component is the source of our Events.
const component = "portico-node"

// events writes problems as Events on their objects. Every node finds the same
// faults in an object, so the name of an Event is made of the problem: the
// first node writes it, to the others it is there already. Safe for concurrent
// use.
type events struct {
	client kubernetes.Interface
	node   string
	log    logr.Logger
	queue  chan diag.Problem
}

// queueLength bounds what is kept while the apiserver does not answer. What
// does not fit is dropped: it is found again.
const queueLength = 1000

func newEvents(c kubernetes.Interface, node string, log logr.Logger) *events {
	return &events{client: c, node: node, log: log, queue: make(chan diag.Problem, queueLength)}
}

func (e *events) report(problems ...diag.Problem) {
	for _, p := range problems {
		select {
		case e.queue <- p:
		default:
		}
	}
}

func (e *events) run(ctx context.Context) {
	said := said{began: time.Now()}
	for {
		select {
		case p := <-e.queue:
			if said.first(p, time.Now()) {
				e.write(ctx, p)
			}
		case <-ctx.Done():
			return
		}
	}
}

const (
	// saidFor is how long an apiserver keeps Events: what is still wrong then is
	// said again, when it is found again.
	saidFor = time.Hour
	// saidLimit bounds each of the two halves of what is remembered.
	saidLimit = 5000
)

// said remembers what was written, for saidFor to twice that, in two halves of
// which the older one is forgotten as a whole. It has a single owner.
type said struct {
	fresh, old map[diag.Problem]bool
	began      time.Time // of the fresh half
}

// first reports whether a problem is not remembered, and remembers it.
func (s *said) first(p diag.Problem, now time.Time) bool {
	if now.Sub(s.began) >= saidFor || len(s.fresh) >= saidLimit {
		if now.Sub(s.began) >= 2*saidFor {
			s.fresh = nil
		}
		s.old, s.fresh, s.began = s.fresh, nil, now
	}
	if s.fresh[p] || s.old[p] {
		return false
	}
	if s.fresh == nil {
		s.fresh = map[diag.Problem]bool{}
	}
	s.fresh[p] = true
	return true
}

func (e *events) write(ctx context.Context, p diag.Problem) {
	e.log.Info("problem", "object", p.Object.String(), "field", p.Field, "reason", string(p.Reason), "message", p.Text())
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := e.client.CoreV1().Events(p.Object.Namespace).Create(ctx, e.event(p), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
		e.log.Error(err, "writing an Event", "object", p.Object.String())
	}
}

func (e *events) event(p diag.Problem) *corev1.Event {
	h := fnv.New64a()
	fmt.Fprintln(h, p.Object.Kind, p.Object.UID, p.Generation, p.Reason, p.Field, p.Text())
	if p.Reason == ReasonHealthPortTaken { // a fault of the node
		fmt.Fprintln(h, e.node)
	}
	api := map[string]string{"EndpointSlice": "discovery.k8s.io/v1"}[p.Object.Kind]
	if api == "" {
		api = "v1"
	}
	now := metav1.Now()
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: p.Object.Namespace, Name: fmt.Sprintf("%.200s.%016x", p.Object.Name, h.Sum64())},
		InvolvedObject: corev1.ObjectReference{Kind: p.Object.Kind, APIVersion: api, Namespace: p.Object.Namespace, Name: p.Object.Name, UID: types.UID(p.Object.UID)},
		Reason:         string(p.Reason), Message: p.Note(), Type: corev1.EventTypeWarning,
		Source: corev1.EventSource{Component: component, Host: e.node}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
		ReportingController: "portico.dev/node", ReportingInstance: e.node,
	}
}

// refusal says which address of a Service is not answered, and whose it is.
func refusal(k l4.PortKey, r l4.Refused) string {
	what := r.Kind.String()
	if r.Address.IsValid() {
		what += " " + r.Address.String()
	}
	return fmt.Sprintf("the %s, port %d/%s, is not answered for it: Service %s has it", what, r.Port, k.Protocol, r.Owner.Service)
}
