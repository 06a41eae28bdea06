// Package chart tests the Helm charts: what they render, that a real apiserver
// takes it, that the pods stay within the pod security standard and the rights
// within what is used, and that every flag exists.
package chart
