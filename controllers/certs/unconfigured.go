package certs

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/portico-ingress/portico/controllers/translate"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/publish"
)

// Unconfigured stands where no issuer is configured, and tells those who ask one by
// name that they wait in vain.
type Unconfigured struct {
	tracker   *Tracker
	publisher *publish.Publisher
	wake      chan struct{}
}

// NewUnconfigured adds to mgr, whose cache holds Ingress and IngressClass.
func NewUnconfigured(mgr manager.Manager, opts translate.Options, p *publish.Publisher) error {
	u := &Unconfigured{publisher: p, wake: make(chan struct{}, 1)}
	u.tracker = NewTracker(opts, func() {
		select {
		case u.wake <- struct{}{}:
		default:
		}
	})
	if err := u.tracker.Follow(mgr.GetCache()); err != nil {
		return err
	}
	return mgr.Add(u)
}

// NeedLeaderElection tells controller-runtime that every replica tells.
func (*Unconfigured) NeedLeaderElection() bool { return false }

// Start tells until ctx ends.
func (u *Unconfigured) Start(ctx context.Context) error {
	for {
		select {
		case <-u.wake:
		case <-ctx.Done():
			return nil
		}
		problems, err := u.problems(ctx)
		if err != nil {
			return err
		}
		u.publisher.SetProblems(problemSource, problems)
		if !pause(ctx, time.Second) {
			return nil
		}
	}
}

func (u *Unconfigured) problems(ctx context.Context) ([]diag.Problem, error) {
	list, err := u.tracker.Ours(ctx)
	if err != nil {
		return nil, err
	}
	var out []diag.Problem
	for _, ing := range list {
		if wish := translate.CertificateWish(ing.Annotations); wish.By == translate.IssuerAnnotation && wish.CertManager == "" {
			out = append(out, diag.Problem{Object: translate.Ref(ing), Generation: ing.Generation, Field: "metadata.annotations", Reason: ReasonNoIssuer,
				Message: fmt.Sprintf("annotation %s asks for certificates, and no issuer is configured, so none is ordered", wish.By),
				Remedy:  "Configure issuers (--acme-issuers, or acme.enabled and acme.issuers of the chart), or remove the annotation"})
		}
	}
	return diag.Sort(out), nil
}
