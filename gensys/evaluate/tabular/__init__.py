"""Scores of tables.

marginals.py    column by column
dependence.py   pairs of columns
utility.py      models that predict a column, or tell samples from real rows
privacy.py      distances to training rows
table.py        evaluate_table: all of it in one call
rows.py         rows as these take them

They need scipy and scikit-learn: pip install 'gensys[tabular]'.
"""
