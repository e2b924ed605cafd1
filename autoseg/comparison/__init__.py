"""Reasons why one configuration is better than another, or is not: experiments, each with its intervals."""
