package translate

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/diag"
	"github.com/portico-ingress/portico/router/policy"
	"github.com/portico-ingress/portico/router/upstream"
)

// caKey is where a Secret has its CA.
const caKey = "ca.crt"

// Credentials translates a Secret for backends: the CA that they are verified
// against and the certificate that they are shown; or in words why it holds
// neither.
func Credentials(s *corev1.Secret) (*upstream.Credentials, string) {
	c, err := upstream.ParseCredentials(s.Data[caKey], s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, err.Error()
	}
	return c, ""
}

// BackendSecret is the Secret that an Ingress names for its backends; false:
// none.
func BackendSecret(ing *router.Ingress) (upstream.SecretRef, bool) {
	name := ing.Policy.Backend.Secret
	return upstream.SecretRef{Namespace: ing.Origin.Ref.Namespace, Name: name}, name != ""
}

// Known is what else is known when the backends of an Ingress are judged.
type Known interface {
	// Pool returns the state of a pool, nil if it is not known yet.
	Pool(upstream.Key) *upstream.State
	// Credentials returns what a Secret holds for backends, or in words why
	// that is nothing of use. Both are empty as long as nobody knows.
	Credentials(upstream.SecretRef) (*upstream.Credentials, string)
}

// BackendProblems reports the backends of an Ingress that are misconfigured: no
// such Service, no such port, a kind of Service that is not allowed; and those
// that TLS is spoken to without knowing who they are. A backend that is merely
// without ready endpoints is not reported.
func BackendProblems(opts Options, ing *router.Ingress, known Known) []diag.Problem {
	j := backendJudge{opts: opts, ing: ing, known: known}
	for _, r := range ing.Rules {
		for _, p := range r.Paths {
			j.judge(p.Backend, p.Field+".backend")
		}
	}
	if ing.Default != nil {
		j.judge(ing.Default.Backend, ing.Default.Field)
	}
	j.secret()
	return diag.Sort(j.problems)
}

type backendJudge struct {
	opts     Options
	ing      *router.Ingress
	known    Known
	problems []diag.Problem
}

func (j *backendJudge) report(field string, reason diag.Reason, message, remedy string) {
	j.problems = append(j.problems, diag.Problem{
		Object: j.ing.Origin.Ref, Generation: j.ing.Origin.Generation, Field: field, Reason: reason, Message: message, Remedy: remedy,
	})
}

func (j *backendJudge) judge(b router.Backend, field string) {
	if b.Service == "" {
		return // reported by the translation of the Ingress
	}
	s := j.known.Pool(upstream.Key(b))
	switch {
	case s == nil:
	case s.Misconfigured:
		j.report(field, ReasonBackendMissing, s.Reason+"; requests are answered 503", s.Remedy)
	case j.ing.Policy.Refuse != "": // nothing is sent there
	case j.ing.Policy.Backend.Protocol.Or(s.Protocol).Secure():
		j.verification(field, b)
	}
}

const verifyRemedy = "Put the CA of the backend as ca.crt into a Secret and name it in the annotation portico.dev/proxy-ssl-secret"

// verification reports TLS to a backend that may be anybody.
func (j *backendJudge) verification(field string, b router.Backend) {
	p := &j.ing.Policy.Backend
	name := "Service " + b.Namespace + "/" + b.Service
	if ref, ok := BackendSecret(j.ing); ok {
		c, _ := j.known.Credentials(ref)
		if c == nil || c.CA != nil && p.Verify != policy.Off {
			return // verified, or reported as a Secret of no use
		}
	}
	switch {
	case p.Verify == policy.On:
		j.report(field, ReasonUnverified, name+" is to be verified, and there is no CA to do so; requests are answered 503", verifyRemedy)
	case j.opts.RequireVerification:
		j.report(field, ReasonUnverified, name+" would be spoken to by TLS without verification, which --require-backend-verification refuses; requests are answered 503", verifyRemedy)
	default:
		j.report(field, ReasonUnverified, name+" is spoken to by TLS without verifying who it is: encrypted, but whoever is in between can read and change everything", verifyRemedy)
	}
}

// secret reports a Secret for backends that is of no use.
func (j *backendJudge) secret() {
	ref, ok := BackendSecret(j.ing)
	if !ok {
		return
	}
	if c, why := j.known.Credentials(ref); c == nil && why != "" {
		j.report("metadata.annotations", ReasonBackendSecret,
			fmt.Sprintf("Secret %s of proxy-ssl-secret cannot be used: %s; requests to backends that speak TLS are answered 503", ref, why),
			"Create it with ca.crt (the CA of the backends), tls.crt and tls.key (a certificate that they are shown), or both")
	}
}
